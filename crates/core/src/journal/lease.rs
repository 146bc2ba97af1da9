//! Whose turn it is to settle on a network.

use crate::NetworkId;

/// Exclusive right to advance the entries of one network, until it is taken over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// The network.
    pub network: NetworkId,
    /// Rises with every take-over; a change with an old token is refused.
    pub token: u64,
}

/// Who asks for a lease, and where the others find it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Unlike that of any other process, and of this one at any other time that it led: the same
    /// name renews a lease with the token it has.
    pub name: String,
    /// Where others may forward calls for the network to; `None` where they cannot.
    pub url: Option<String>,
}

/// The answer to [`Journal::lease`](super::Journal::lease).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leased {
    /// The asker has it.
    Granted(Lease),
    /// Somebody else has it, and it has not run out.
    Held(Holder),
}

impl Leased {
    /// The lease, when the asker has it.
    pub fn granted(self) -> Option<Lease> {
        match self {
            Self::Granted(lease) => Some(lease),
            Self::Held(_) => None,
        }
    }
}
