//! The dashboard's pages in HTML.
//!
//! **Invariant:** what stands in a page is escaped. Names, messages and addresses come from contracts
//! and strangers; only [`Html`] is written as it is, and only this file makes one.

use std::fmt::{Display, Write as _};

use pay402_core::Amount;
use pay402_core::history::{Change, Record};
use pay402_core::journal::{Delivery, Entry, Outcome, Stage};
use pay402_core::time::UnixTime;

use crate::api::settlements::id_of;
use crate::settle::{hash, refused_by};

/// Decimal places of a network's own coin, and of a gwei.
const COIN_DECIMALS: u8 = 18;
const GWEI_DECIMALS: u8 = 9;
/// Longest text that is shown whole in a table, in characters.
const SHORT_CHARS: usize = 18;

/// Markup.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup that is written here and holds nothing of anybody else.
    fn raw(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// Text of anybody.
    pub(super) fn text(text: &(impl Display + ?Sized)) -> Self {
        let text = text.to_string();
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                // Neither other control characters nor what turns the direction of a line.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
                other if other.is_control() && other != '\n' => escaped.push('\u{fffd}'),
                other => escaped.push(other),
            }
        }
        Self(escaped)
    }

    fn add(&mut self, more: &Self) {
        self.0.push_str(&more.0);
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes markup with what is put into it, which must be [`Html`].
macro_rules! html {
    ($form:literal $(, $part:expr)* $(,)?) => {{
        let mut html = Html::default();
        // Writing into a text does not fail.
        _ = write!(html.0, $form $(, checked(&$part))*);
        html
    }};
}

/// Nothing but markup gets into markup.
const fn checked(html: &Html) -> &Html {
    html
}

/// A figure with what it means.
pub(super) struct Tile {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) more: &'static str,
}

/// Where entries stand on one network.
pub(super) struct States {
    pub(super) network: String,
    pub(super) status: &'static str,
    /// Who leads.
    pub(super) leader: String,
    pub(super) due: Option<u64>,
    pub(super) signed: Option<u64>,
    pub(super) sent: Option<u64>,
    pub(super) settled: u64,
    pub(super) failed: u64,
    pub(super) gas_gwei: u64,
}

/// One signer.
pub(super) struct Lane {
    pub(super) network: String,
    pub(super) signer: String,
    pub(super) wei: Option<Amount>,
    pub(super) in_flight: u64,
    pub(super) rejections: u32,
    pub(super) is_low: bool,
}

/// What a caller may cost in gas, and has.
pub(super) struct Budget {
    pub(super) network: String,
    pub(super) caller: String,
    pub(super) spent_gwei: u64,
    pub(super) max_gwei: u64,
}

/// How often a code was told.
pub(super) struct Refusals {
    pub(super) code: &'static str,
    pub(super) verified: u64,
    pub(super) settled: u64,
    pub(super) failed: u64,
}

/// Everything on the first page.
pub(super) struct Overview {
    pub(super) tiles: Vec<Tile>,
    pub(super) states: Vec<States>,
    pub(super) lanes: Vec<Lane>,
    pub(super) budgets: Vec<Budget>,
    pub(super) refusals: Vec<Refusals>,
    pub(super) newest: Vec<Entry>,
}

/// A whole page around `main`.
pub(super) fn page(
    title: &str,
    style: &'static str,
    script: Option<&'static str>,
    main: &Html,
) -> Html {
    let live =
        script.map_or_else(Html::default, |script| html!("<script>{}</script>", Html::raw(script)));
    let sign = match script {
        Some(_) => Html::raw("<span id=live>reload for news</span>"),
        None => Html::default(),
    };
    html!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <title>{} · pay402</title><style>{}</style></head><body>\
         <header><h1><a href=\"/dashboard\">pay402 facilitator</a></h1><span>{}</span>{}</header>\
         <main>{}</main>{}</body></html>\n",
        Html::text(title),
        Html::raw(style),
        Html::text(concat!("version ", env!("CARGO_PKG_VERSION"))),
        sign,
        main,
        live,
    )
}

pub(super) fn login(problem: Option<&str>) -> Html {
    let problem = problem.map_or_else(Html::default, |problem| {
        html!("<p><span class=\"b bad\">{}</span></p>", Html::text(problem))
    });
    html!(
        "<section><h2>Who is looking?</h2>{}\
         <form method=post action=\"/dashboard/session\" enctype=\"text/plain\">\
         <label for=key>API key of a caller with the role operator</label>\
         <input id=key name=key type=password autocomplete=off autofocus required>\
         <button>Look</button></form></section>",
        problem
    )
}

/// One thing to say, and nothing else.
pub(super) fn notice(title: &str, text: &str) -> Html {
    html!("<section><h2>{}</h2><p class=none>{}</p></section>", Html::text(title), Html::text(text))
}

pub(super) fn overview(of: &Overview) -> Html {
    let mut tiles = Html::default();
    for tile in &of.tiles {
        tiles.add(&html!(
            "<div><dt>{}</dt><dd>{} <small>{}</small></dd></div>",
            Html::text(tile.name),
            Html::text(&tile.value),
            Html::text(tile.more),
        ));
    }
    html!(
        "<dl class=tiles>{}</dl>{}{}{}{}{}",
        tiles,
        states(&of.states),
        lanes(&of.lanes),
        budgets(&of.budgets),
        newest(&of.newest),
        refusals(&of.refusals),
    )
}

fn states(states: &[States]) -> Html {
    let head =
        ["Network", "Here", "Leader", "Due", "Signed", "Sent", "Settled", "Failed", "Gas spent"];
    let rows = states.iter().map(|of| {
        let class = if ["ok", "following"].contains(&of.status) { "good" } else { "warn" };
        let status = if of.status == "ok" { "settles" } else { of.status };
        vec![
            code(&of.network),
            badge(class, status),
            code(&of.leader),
            count(of.due),
            count(of.signed),
            count(of.sent),
            count(Some(of.settled)),
            count(Some(of.failed)),
            Html::text(&gwei(of.gas_gwei)),
        ]
    });
    let table = table(&head, &["", "", "", "n", "n", "n", "n", "n", "n"], rows);
    let note = Html::raw("<p class=none>Settled, failed and gas: since this process started.</p>");
    html!("<section><h2>Payments by state</h2>{}{}</section>", table, note)
}

fn lanes(lanes: &[Lane]) -> Html {
    let head = ["Network", "Signer", "Balance", "In flight", "Refused in a row", "Lane"];
    let rows = lanes.iter().map(|lane| {
        let balance = match lane.wei {
            Some(wei) => Html::text(&wei.to_units(COIN_DECIMALS)),
            None => Html::text("unknown"),
        };
        let health = match (lane.is_low, lane.rejections) {
            (true, _) => badge("bad", "low on gas"),
            (false, 0) => badge("good", "well"),
            (false, _) => badge("warn", "rests"),
        };
        vec![
            code(&lane.network),
            code(&lane.signer),
            balance,
            count(Some(lane.in_flight)),
            count(Some(lane.rejections.into())),
            health,
        ]
    });
    let table = table(&head, &["", "", "n", "n", "n", ""], rows);
    html!("<section><h2>Signers</h2>{}</section>", table)
}

/// Nothing where no caller has a budget, or another process leads.
fn budgets(budgets: &[Budget]) -> Html {
    if budgets.is_empty() {
        return Html::default();
    }
    let head = ["Network", "Caller", "Gas", "At most", "Budget"];
    let rows = budgets.iter().map(|of| {
        let health = match of.spent_gwei < of.max_gwei {
            true => badge("good", "open"),
            false => badge("bad", "spent"),
        };
        let (spent, most) = (Html::text(&gwei(of.spent_gwei)), Html::text(&gwei(of.max_gwei)));
        vec![code(&of.network), Html::text(&of.caller), spent, most, health]
    });
    let table = table(&head, &["", "", "n", "n", ""], rows);
    html!("<section><h2>Gas of callers within the last hour</h2>{}</section>", table)
}

fn refusals(refusals: &[Refusals]) -> Html {
    if refusals.is_empty() {
        return html!(
            "<section><h2>Refusals</h2>{}</section>",
            Html::raw("<p class=none>None since this process started.</p>")
        );
    }
    let head = ["Code", "Verify", "Settle", "Failed on chain"];
    let rows = refusals.iter().map(|of| {
        let counts = [of.verified, of.settled, of.failed].map(|number| count(Some(number)));
        let mut row = vec![code(of.code)];
        row.extend(counts);
        row
    });
    let table = table(&head, &["", "n", "n", "n"], rows);
    html!("<section><h2>Refusals by code, since this process started</h2>{}</section>", table)
}

fn newest(entries: &[Entry]) -> Html {
    if entries.is_empty() {
        return html!(
            "<section><h2>Newest payments</h2>{}</section>",
            Html::raw("<p class=none>None was entered yet.</p>")
        );
    }
    let head = ["Entered, UTC", "Payment", "Payer", "Amount", "State", "Fee, gwei", "Caller"];
    let rows = entries.iter().map(|entry| {
        let new = &entry.new;
        let name = new.key.as_str().rsplit('/').next().unwrap_or_default();
        let link = html!(
            "<a href=\"/dashboard/payments/{}\">{}</a>",
            Html::text(&path_part(&id_of(&new.key))),
            short(name)
        );
        vec![
            time(new.entered_at),
            link,
            short(&new.payer),
            Html::text(&new.amount),
            state(entry),
            fee(entry),
            Html::text(new.entered_by.as_deref().unwrap_or("—")),
        ]
    });
    let table = table(&head, &["t", "", "", "n", "", "n", ""], rows);
    html!("<section><h2>Newest payments</h2>{}</section>", table)
}

pub(super) fn payment(entry: &Entry, history: &[Record], is_whole: bool) -> Html {
    let new = &entry.new;
    let mut facts = Html::default();
    let mut fact = |name: &'static str, value: Html| {
        facts.add(&html!("<dt>{}</dt><dd>{}</dd>", Html::text(name), value));
    };
    fact("State", state(entry));
    fact("Payment", code(&id_of(&new.key)));
    fact("Network", code(new.network.as_str()));
    fact("Payer", code(&new.payer));
    fact("Amount, atomic units", Html::text(&new.amount));
    fact("Entered, UTC", time(new.entered_at));
    fact("Expires, UTC", time(new.expires));
    fact("Caller", Html::text(new.entered_by.as_deref().unwrap_or("—")));
    fact("Told", Html::text(delivery(entry.delivery)));
    if let Some(transaction) = hash(entry) {
        fact("Transaction", code(&transaction));
    }
    if let Stage::Final(outcome) = &entry.stage {
        let (Outcome::Settled { fee, .. }
        | Outcome::Failed { fee, .. }
        | Outcome::Reverted { fee, .. }) = outcome;
        fact("Fee", Html::text(&format!("{} gwei", fee.to_units(GWEI_DECIMALS))));
    }
    if let Some(refused) = refused_by(entry) {
        fact("Refusal", code(refused.reason.code()));
        fact("Message", Html::text(&refused.message));
    }
    let head = ["Id", "When, UTC", "What", "Transaction", "By", "Told"];
    let rows = history.iter().map(|record| {
        vec![
            Html::text(&record.seq),
            time(record.at),
            change(&record.change),
            record.change.transaction().map_or_else(Html::default, code),
            by(&record.change),
            Html::text(delivery(record.delivery)),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let rest = match (rows.is_empty(), is_whole) {
        (true, _) => Html::raw("<p class=none>It was entered before the journal kept one.</p>"),
        (false, true) => Html::default(),
        (false, false) => Html::raw("<p class=none>There is more than is shown here.</p>"),
    };
    let table = table(&head, &["n", "t", "", "", "", "t"], rows.into_iter());
    html!(
        "<section><h2>Payment</h2><dl class=facts>{}</dl></section>\
         <section><h2>History</h2>{}{}</section>",
        facts,
        table,
        rest
    )
}

fn table(
    head: &[&'static str],
    classes: &[&'static str],
    rows: impl Iterator<Item = Vec<Html>>,
) -> Html {
    let class = |place: usize| Html::raw(classes.get(place).copied().unwrap_or_default());
    let mut heads = Html::default();
    for (place, name) in head.iter().copied().enumerate() {
        heads.add(&html!("<th class=\"{}\">{}</th>", class(place), Html::raw(name)));
    }
    let mut body = Html::default();
    for row in rows {
        body.0.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let name = Html::raw(head.get(place).copied().unwrap_or_default());
            body.add(&html!(
                "<td class=\"{}\" data-l=\"{}\"><span>{}</span></td>",
                class(place),
                name,
                cell
            ));
        }
        body.0.push_str("</tr>");
    }
    html!("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", heads, body)
}

fn code(text: &str) -> Html {
    html!("<code>{}</code>", Html::text(text))
}

fn badge(class: &'static str, text: &str) -> Html {
    html!("<span class=\"b {}\">{}</span>", Html::raw(class), Html::text(text))
}

fn count(number: Option<u64>) -> Html {
    number.map_or_else(|| Html::text("unknown"), |number| Html::text(&number))
}

fn time(at: UnixTime) -> Html {
    Html::text(at.to_utc().trim_end_matches(" UTC"))
}

/// The two ends of a long text, all of it as a title.
fn short(text: &str) -> Html {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= SHORT_CHARS {
        return code(text);
    }
    let (head, tail) = (&characters[..8], &characters[characters.len() - 6..]);
    let shown: String = head.iter().chain(&['…']).chain(tail).collect();
    html!("<code title=\"{}\">{}</code>", Html::text(text), Html::text(&shown))
}

fn state(entry: &Entry) -> Html {
    match &entry.stage {
        Stage::Due => badge("warn", "due"),
        Stage::Signed(_) => badge("warn", "signed"),
        Stage::Sent(_) => badge("warn", "sent"),
        Stage::Final(Outcome::Settled { .. }) => badge("good", "settled"),
        Stage::Final(Outcome::Failed { reason, .. }) => {
            html!("{} {}", badge("bad", "failed"), code(reason))
        }
        Stage::Final(Outcome::Reverted { reason, .. }) => {
            html!("{} {}", badge("bad", "reverted"), code(reason))
        }
    }
}

fn fee(entry: &Entry) -> Html {
    match &entry.stage {
        Stage::Final(
            Outcome::Settled { fee, .. }
            | Outcome::Failed { fee, .. }
            | Outcome::Reverted { fee, .. },
        ) => Html::text(&fee.to_units(GWEI_DECIMALS)),
        Stage::Due | Stage::Signed(_) | Stage::Sent(_) => Html::default(),
    }
}

fn change(change: &Change) -> Html {
    let name = change.name();
    match change {
        Change::Settled { block, .. } => {
            html!("{} {}", badge("good", name), Html::text(&format!("in block {block}")))
        }
        Change::Failed { reason, .. } | Change::Reverted { reason, .. } => {
            html!("{} {}", badge("bad", name), code(reason))
        }
        Change::Reopened => badge("warn", name),
        Change::HandedOver => badge("", "handed over"),
        _ => badge("", name),
    }
}

fn by(change: &Change) -> Html {
    match change {
        Change::Signed(sent) | Change::Replaced(sent) => {
            html!("{} {}", short(&sent.signer), Html::text(&format!("nonce {}", sent.nonce)))
        }
        _ => Html::default(),
    }
}

const fn delivery(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Waiting => "a caller waits",
        Delivery::Owed => "nobody yet",
        Delivery::Delivered => "its caller",
    }
}

fn gwei(gwei: u64) -> String {
    format!("{gwei} gwei")
}

/// For people: `3 s`, `2 min 5 s`, `3 h 20 min`.
pub(super) fn age(seconds: u64) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A part of a path, with everything that means something in a URL in its place.
fn path_part(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' | b':' => {
                part.push(byte.into());
            }
            other => _ = write!(part, "%{other:02X}"),
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let hostile = "<script>alert(1)</script>\" onload='x' & \u{202e}\0";
        let shown = Html::text(hostile).to_string();
        assert!(!shown.contains(['<', '>', '"', '\'', '\u{202e}', '\0']), "{shown}");
        assert_eq!(Html::text("a & b").to_string(), "a &amp; b");
        assert!(!short(&format!("{hostile}{hostile}")).to_string().contains("<script"));
        assert_eq!(path_part("eip155:1~0xa/../b?c#d\"<"), "eip155:1~0xa%2F..%2Fb%3Fc%23d%22%3C");
    }

    #[test]
    fn ages_are_told_in_what_they_are_thought_of() {
        let told = [(0, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min")];
        for (seconds, expected) in told {
            assert_eq!(age(seconds), expected);
        }
    }
}
