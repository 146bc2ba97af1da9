//! What the root grants to a key, checked as the contract will check it.

use alloy::primitives::aliases::U48;
use alloy::primitives::{Address, B256};
use alloy::sol_types::SolStruct as _;
use pay402_core::error::Malformed;
use pay402_core::time::UnixTime;

use super::abi;

/// Sessions that one operation may register.
pub const SESSIONS_MAX: usize = 8;
/// Payees of one session.
pub const PAYEES_MAX: usize = 32;
/// Tokens of one session.
pub const TOKENS_MAX: usize = 8;
/// EIP-3009 authorizations of one window.
pub const SLOTS_MAX: u8 = 16;

/// What a session may spend of one token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TokenLimit {
    /// The token.
    pub token: Address,
    /// The most of one payment, in atomic units.
    pub cap: u128,
    /// The most of all payments in one window, in atomic units.
    pub budget: u128,
    /// Length of a window in seconds, counted from the session's start.
    pub window_s: u32,
    /// EIP-3009 authorizations that may be used in one window; zero closes that road.
    pub slots: u8,
}

/// Whom a session may pay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Payees {
    /// Anybody.
    Any,
    /// These and nobody else.
    Only(Vec<Address>),
}

/// What the root grants to one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The address of the key.
    pub key: Address,
    /// The first second in which it may pay, and the start of its first window.
    pub valid_after: UnixTime,
    /// The first second in which it may not any more.
    pub expiry: UnixTime,
    /// Whom it may pay.
    pub payees: Payees,
    /// What it may spend, at most one limit per token.
    pub tokens: Vec<TokenLimit>,
}

impl Session {
    /// Checks by the contract's rules that `root` may grant this at `now`.
    ///
    /// # Errors
    /// The field that the contract would refuse, relative to the session.
    pub fn check(&self, root: Address, now: UnixTime) -> Result<(), Malformed> {
        let bad = |field: &str, problem: &str| Err(Malformed::new(field, problem));
        if self.key == Address::ZERO {
            return bad("key", "must not be the zero address");
        }
        if self.key == root {
            return bad("key", "is the root key's own; a session needs a key of its own");
        }
        if !fits_u48(self.valid_after) || !fits_u48(self.expiry) {
            return bad("expiry", "is too far away: times have 48 bits");
        }
        if self.expiry <= self.valid_after {
            return bad("expiry", "must be later than the start");
        }
        if self.expiry <= now {
            return bad("expiry", "is in the past");
        }
        match &self.payees {
            Payees::Only(payees) if payees.is_empty() => {
                return bad("payees", "is empty; name whom the key may pay, or allow anybody");
            }
            Payees::Only(payees) if payees.len() > PAYEES_MAX => {
                return bad("payees", &format!("has more than {PAYEES_MAX}"));
            }
            Payees::Only(payees) if payees.contains(&Address::ZERO) => {
                return bad("payees", "must not hold the zero address");
            }
            Payees::Any | Payees::Only(_) => {}
        }
        if self.tokens.is_empty() {
            return bad("tokens", "is empty; name a token that the key may spend");
        }
        if self.tokens.len() > TOKENS_MAX {
            return bad("tokens", &format!("has more than {TOKENS_MAX}"));
        }
        for (index, limit) in self.tokens.iter().enumerate() {
            let earlier = &self.tokens[..index];
            let within = format!("tokens[{index}]");
            limit.check(root, earlier).map_err(|error| error.within(&within))?;
        }
        Ok(())
    }

    /// What the contract logs of it: the EIP-712 hash.
    pub fn policy(&self) -> B256 {
        self.to_abi().eip712_hash_struct()
    }

    pub(super) fn to_abi(&self) -> abi::Session {
        let (any, payees) = match &self.payees {
            Payees::Any => (true, Vec::new()),
            Payees::Only(payees) => (false, payees.clone()),
        };
        let tokens = self.tokens.iter().map(|limit| abi::TokenLimit {
            token: limit.token,
            cap: limit.cap,
            budget: limit.budget,
            window: limit.window_s,
            slots: limit.slots,
        });
        abi::Session {
            key: self.key,
            validAfter: u48(self.valid_after),
            expiry: u48(self.expiry),
            anyPayee: any,
            payees,
            tokens: tokens.collect(),
        }
    }

    /// Reads what a registration carries. It is a record of what was granted, not a new grant.
    pub(super) fn from_abi(session: &abi::Session) -> Self {
        let tokens = session.tokens.iter().map(|limit| TokenLimit {
            token: limit.token,
            cap: limit.cap,
            budget: limit.budget,
            window_s: limit.window,
            slots: limit.slots,
        });
        Self {
            key: session.key,
            valid_after: UnixTime(session.validAfter.to()),
            expiry: UnixTime(session.expiry.to()),
            payees: match session.anyPayee {
                true => Payees::Any,
                false => Payees::Only(session.payees.clone()),
            },
            tokens: tokens.collect(),
        }
    }
}

impl TokenLimit {
    fn check(&self, root: Address, earlier: &[Self]) -> Result<(), Malformed> {
        let bad = |field: &str, problem: &str| Err(Malformed::new(field, problem));
        if self.token == Address::ZERO || self.token == root {
            return bad("token", "is no token");
        }
        if earlier.iter().any(|limit| limit.token == self.token) {
            return bad("token", "has a limit already; give each token one");
        }
        if self.cap == 0 {
            return bad("cap", "must be more than zero");
        }
        if self.cap > self.budget {
            return bad("cap", "must not be more than the budget");
        }
        if self.window_s == 0 {
            return bad("window", "must be at least a second");
        }
        if self.slots > SLOTS_MAX {
            return bad("slots", &format!("must be at most {SLOTS_MAX}"));
        }
        Ok(())
    }
}

pub(super) fn fits_u48(time: UnixTime) -> bool {
    time.0 >> 48 == 0
}

/// A time as the contract keeps it. Whoever calls it checked that it fits.
pub(super) fn u48(time: UnixTime) -> U48 {
    assert!(fits_u48(time), "times are checked before they are signed");
    U48::from(time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_795_000_000);
    const ROOT: Address = Address::repeat_byte(1);

    fn limit(token: u8) -> TokenLimit {
        let token = Address::repeat_byte(token);
        TokenLimit { token, cap: 100, budget: 300, window_s: 86_400, slots: 0 }
    }

    fn session() -> Session {
        Session {
            key: Address::repeat_byte(2),
            valid_after: NOW,
            expiry: NOW.plus_s(60),
            payees: Payees::Only(vec![Address::repeat_byte(3)]),
            tokens: vec![limit(4)],
        }
    }

    #[test]
    fn what_the_contract_takes_is_granted() {
        let any = Session { payees: Payees::Any, ..session() };
        let most = Session {
            payees: Payees::Only((1..=32).map(Address::repeat_byte).collect()),
            tokens: (10..18).map(limit).collect(),
            ..session()
        };
        let past = Session { valid_after: UnixTime(0), ..session() };
        let whole = TokenLimit { cap: 300, slots: 16, window_s: 1, ..limit(4) };
        let whole = Session { tokens: vec![whole], ..session() };
        for good in [session(), any, most, past, whole] {
            assert_eq!(good.check(ROOT, NOW), Ok(()), "{good:?}");
            assert_eq!(Session::from_abi(&good.to_abi()), good);
        }
    }

    #[test]
    fn what_the_contract_would_refuse_names_its_field() {
        let with = |change: fn(&mut Session)| {
            let mut session = session();
            change(&mut session);
            session
        };
        let cases = [
            ("key", with(|s| s.key = Address::ZERO)),
            ("key", with(|s| s.key = ROOT)),
            ("expiry", with(|s| s.expiry = s.valid_after)),
            ("expiry", with(|s| (s.valid_after, s.expiry) = (UnixTime(0), NOW))),
            ("expiry", with(|s| s.expiry = UnixTime(1 << 48))),
            ("payees", with(|s| s.payees = Payees::Only(Vec::new()))),
            ("payees", with(|s| s.payees = Payees::Only(vec![Address::ZERO]))),
            ("payees", with(|s| s.payees = Payees::Only(vec![Address::repeat_byte(3); 33]))),
            ("tokens", with(|s| s.tokens.clear())),
            ("tokens", with(|s| s.tokens = (10..19).map(limit).collect())),
            ("tokens[1].token", with(|s| s.tokens = vec![limit(4), limit(4)])),
            ("tokens[0].token", with(|s| s.tokens[0].token = Address::ZERO)),
            ("tokens[0].token", with(|s| s.tokens[0].token = ROOT)),
            ("tokens[0].cap", with(|s| s.tokens[0].cap = 0)),
            ("tokens[0].cap", with(|s| s.tokens[0].cap = 301)),
            ("tokens[0].window", with(|s| s.tokens[0].window_s = 0)),
            ("tokens[0].slots", with(|s| s.tokens[0].slots = 17)),
        ];
        for (field, session) in cases {
            let error = session.check(ROOT, NOW).unwrap_err();
            assert_eq!(error.field, field, "{session:?}");
        }
    }
}
