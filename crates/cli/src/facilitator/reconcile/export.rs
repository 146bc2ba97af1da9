//! Double-entry lines of what an audit found: as CSV, one line a posting, or as a journal of hledger and
//! ledger, one transaction a movement.
//!
//! **Invariant:** amounts are exact decimals, and the postings of each transaction add up to nothing.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::Path;

use pay402_core::NetworkId;
use pay402_core::asset::AssetId;
use pay402_core::journal::Forgotten;
use pay402_core::time::UnixTime;
use pay402_evm::AssetTable;
use pay402_evm::audit::{Audited, Kind, Movement, Standing};

use super::coin;

/// The columns of the CSV.
const COLUMNS: &str =
    "entry,time,kind,account,amount,commodity,standing,network,block,transaction,payment,fee_wei";
const S_PER_DAY: u64 = 86_400;

/// Why nothing was written.
#[derive(Debug)]
pub(super) struct Unwritten(pub(super) String);

/// What is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values (RFC 4180).
    Csv,
    /// A journal of hledger and ledger.
    Journal,
}

impl Format {
    /// The format of a file of this name, which must not be there yet.
    pub(super) fn of(path: &Path) -> Result<Self, Unwritten> {
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Self::Csv,
            Some("journal") => Self::Journal,
            _ => return Err(Unwritten("name a file that ends with .csv or .journal".into())),
        };
        match path.exists() {
            true => Err(there(path)),
            false => Ok(format),
        }
    }
}

fn there(path: &Path) -> Unwritten {
    Unwritten(format!("{} is there already; name a new file", path.display()))
}

/// Writes the movements of each network to a new file, whole or not at all.
pub(super) fn write<'a>(
    format: Format,
    path: &Path,
    audited: impl Iterator<Item = (&'a Audited, &'a AssetTable)>,
) -> Result<(), Unwritten> {
    let failed =
        |error: std::io::Error| Unwritten(format!("{} cannot be written: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    let mut out = BufWriter::new(file);
    lines(format, &mut out, audited).map_err(failed)?;
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => there(path),
        _ => failed(error.error),
    })?;
    Ok(())
}

/// Writes the movements of each network.
pub(super) fn lines<'a>(
    format: Format,
    out: &mut impl Write,
    audited: impl Iterator<Item = (&'a Audited, &'a AssetTable)>,
) -> std::io::Result<()> {
    let mut number = 0;
    if format == Format::Csv {
        write!(out, "{COLUMNS}\r\n")?;
    }
    for (audited, assets) in audited {
        if format == Format::Journal {
            let (network, standing) = (&audited.network, audited.standing().name());
            let head = &audited.head;
            writeln!(out, "; {network} up to block {} ({}): {standing}", head.number, head.hash)?;
            let Forgotten { entries, entry, .. } = &audited.forgotten;
            if *entries > 0 {
                writeln!(
                    out,
                    "; {entries} entries up to number {entry} are deleted and not in here"
                )?;
            }
            writeln!(out)?;
        }
        for movement in &audited.movements {
            number += 1;
            let double = Double::of(&audited.network, movement, assets);
            let text = match format {
                Format::Csv => double.csv(number),
                Format::Journal => double.journal(),
            };
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

/// A movement as two postings.
struct Double<'a> {
    network: &'a NetworkId,
    movement: &'a Movement,
    /// Where it went, and where it came from.
    to: String,
    from: String,
    /// Without a sign.
    amount: String,
    commodity: String,
}

impl<'a> Double<'a> {
    fn of(network: &'a NetworkId, movement: &'a Movement, assets: &AssetTable) -> Self {
        let Movement { kind, from, to, token, amount, .. } = movement;
        let account = |of: &str, whose: &str| format!("{of}:{network}:{whose}");
        let (from, to) = match kind {
            Kind::Payment => {
                (account("payers", from), account("payees", to.as_deref().unwrap_or("unknown")))
            }
            Kind::Gas => (account("assets:signers", from), format!("expenses:gas:{network}")),
            Kind::Advance => {
                (account("assets:signers", from), format!("expenses:advances:{network}"))
            }
        };
        let (amount, unit) = match token {
            None => (coin(*amount), "coin".to_owned()),
            Some(token) => match assets.find(&AssetId::new(network.clone(), token)) {
                Some(asset) => (amount.to_units(asset.info.decimals), asset.info.symbol.clone()),
                None => (amount.to_string(), token.clone()),
            },
        };
        let commodity = format!("{unit} {network}");
        Self { network, movement, to, from, amount, commodity }
    }

    fn csv(&self, number: u64) -> String {
        let Movement { at, block, transaction, kind, payment, fee, standing, .. } = self.movement;
        let (date, time) = date_and_time(*at);
        let payment = payment.as_ref().map_or("", |key| key.as_str());
        let fee = fee.map(|fee| fee.to_string()).unwrap_or_default();
        let mut text = String::new();
        for (account, sign) in [(&self.to, ""), (&self.from, "-")] {
            let fields = [
                &number.to_string(),
                &format!("{date}T{time}Z"),
                kind.name(),
                account,
                &format!("{sign}{}", self.amount),
                &self.commodity,
                standing.name(),
                self.network.as_str(),
                &block.to_string(),
                transaction,
                payment,
                &fee,
            ];
            text.push_str(&fields.map(quoted).join(","));
            text.push_str("\r\n");
        }
        text
    }

    fn journal(&self) -> String {
        let Movement { at, block, transaction, kind, payment, fee, standing, .. } = self.movement;
        let (date, time) = date_and_time(*at);
        // Cleared is what is proven; pending, what is not.
        let mark = if *standing == Standing::Proven { '*' } else { '!' };
        let mut text = format!("{date} {mark} {}\n", kind.name());
        let mut tags = format!(
            "time: {time}, block: {block}, transaction: {transaction}, standing: {}",
            standing.name()
        );
        if let Some(payment) = payment {
            write!(tags, ", payment: {payment}").expect("a string takes it");
        }
        if let Some(fee) = fee {
            write!(tags, ", fee_wei: {fee}").expect("a string takes it");
        }
        writeln!(text, "    ; {tags}").expect("a string takes it");
        for (account, sign) in [(&self.to, ""), (&self.from, "-")] {
            let (amount, commodity) = (&self.amount, self.commodity.replace(['"', '\n'], " "));
            writeln!(text, "    {account}  {sign}{amount} \"{commodity}\"")
                .expect("a string takes it");
        }
        text.push('\n');
        text
    }
}

fn quoted(field: &str) -> String {
    match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// The day and the time of day, in UTC.
fn date_and_time(at: UnixTime) -> (String, String) {
    let (days, s) = (at.0 / S_PER_DAY, at.0 % S_PER_DAY);
    // Days from 0000-03-01 on, so that a leap day is the last of its year; 400 years are an era.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + later;
    let (hour, minute, second) = (s / 3_600, s / 60 % 60, s % 60);
    (format!("{year:04}-{month:02}-{date:02}"), format!("{hour:02}:{minute:02}:{second:02}"))
}

#[cfg(test)]
mod tests {
    use pay402_core::{Amount, PaymentKey};

    use super::super::tests::sample;
    use super::*;

    const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

    fn movement(kind: Kind, amount: u64) -> Movement {
        let is_payment = kind == Kind::Payment;
        let key = PaymentKey::from_stored("eip155:84532/0xtoken/0xpayer/0x01");
        Movement {
            at: UnixTime(1_795_000_002),
            block: 21,
            transaction: "0xhash".into(),
            kind,
            from: "0xfrom".into(),
            to: is_payment.then(|| "0xto".into()),
            token: is_payment.then(|| USDC.into()),
            amount: Amount::from(amount),
            payment: is_payment.then_some(key),
            fee: is_payment.then_some(Amount::from(7)),
            standing: Standing::Proven,
        }
    }

    fn written(name: &str, movements: Vec<Movement>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let audited = Audited { movements, ..sample() };
        let assets = AssetTable::defaults();
        let format = Format::of(&path).unwrap();
        write(format, &path, std::iter::once((&audited, &assets))).unwrap();
        let refused = Format::of(&path).unwrap_err();
        assert!(refused.0.contains("is there already"), "{refused:?}");
        let again = write(format, &path, std::iter::once((&audited, &assets))).unwrap_err();
        assert!(again.0.contains("is there already"), "an export took the place of another");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something is left over");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_journal_has_balanced_transactions() {
        let unknown =
            Movement { standing: Standing::Unknown, to: None, ..movement(Kind::Payment, 5) };
        let all = vec![movement(Kind::Payment, 10_000), movement(Kind::Gas, 65_500), unknown];
        let expected = "\
; eip155:84532 up to block 22 (0xhead): proven

2026-11-18 * payment
    ; time: 11:06:42, block: 21, transaction: 0xhash, standing: proven, payment: eip155:84532/0xtoken/0xpayer/0x01, fee_wei: 7
    payees:eip155:84532:0xto  0.01 \"USDC eip155:84532\"
    payers:eip155:84532:0xfrom  -0.01 \"USDC eip155:84532\"

2026-11-18 * gas
    ; time: 11:06:42, block: 21, transaction: 0xhash, standing: proven
    expenses:gas:eip155:84532  0.0000000000000655 \"coin eip155:84532\"
    assets:signers:eip155:84532:0xfrom  -0.0000000000000655 \"coin eip155:84532\"

2026-11-18 ! payment
    ; time: 11:06:42, block: 21, transaction: 0xhash, standing: unknown, payment: eip155:84532/0xtoken/0xpayer/0x01, fee_wei: 7
    payees:eip155:84532:unknown  0.000005 \"USDC eip155:84532\"
    payers:eip155:84532:0xfrom  -0.000005 \"USDC eip155:84532\"

";
        assert_eq!(written("books.journal", all), expected);
    }

    #[test]
    fn csv_has_a_line_for_each_posting() {
        let odd = Movement { token: Some("0x\"a,b\"".into()), ..movement(Kind::Payment, 3) };
        let text = written("books.csv", vec![movement(Kind::Advance, 1), odd]);
        let expected = "\
entry,time,kind,account,amount,commodity,standing,network,block,transaction,payment,fee_wei\r
1,2026-11-18T11:06:42Z,advance,expenses:advances:eip155:84532,0.000000000000000001,coin eip155:84532,proven,eip155:84532,21,0xhash,,\r
1,2026-11-18T11:06:42Z,advance,assets:signers:eip155:84532:0xfrom,-0.000000000000000001,coin eip155:84532,proven,eip155:84532,21,0xhash,,\r
2,2026-11-18T11:06:42Z,payment,payees:eip155:84532:0xto,3,\"0x\"\"a,b\"\" eip155:84532\",proven,eip155:84532,21,0xhash,eip155:84532/0xtoken/0xpayer/0x01,7\r
2,2026-11-18T11:06:42Z,payment,payers:eip155:84532:0xfrom,-3,\"0x\"\"a,b\"\" eip155:84532\",proven,eip155:84532,21,0xhash,eip155:84532/0xtoken/0xpayer/0x01,7\r
";
        assert_eq!(text, expected);
    }

    #[test]
    fn other_files_are_refused() {
        for name in ["books", "books.txt", "books.CSV", ".csv"] {
            assert!(Format::of(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (s, date, time) in [
            (0, "1970-01-01", "00:00:00"),
            (951_782_399, "2000-02-28", "23:59:59"),
            (951_782_400, "2000-02-29", "00:00:00"),
            (951_868_800, "2000-03-01", "00:00:00"),
            (1_735_689_599, "2024-12-31", "23:59:59"),
            (1_795_000_002, "2026-11-18", "11:06:42"),
            (4_107_542_400, "2100-03-01", "00:00:00"),
        ] {
            assert_eq!(date_and_time(UnixTime(s)), (date.into(), time.into()), "{s}");
        }
    }
}
