//! `eth_getLogs` and polling filters.
//!
//! A filter is a position in the chain's event log, so that it costs nothing while nobody asks. The invariant kept:
//! filters, ranges and results are bounded.

use std::collections::BTreeMap;

use alloy::primitives::{B256, U64, U256};
use alloy::rpc::types::{Filter, FilterBlockOption, Log};

use super::convert::{self, Standing};
use super::params::{Params, Quantity};
use super::{Answer, result};
use crate::chain::{Chain, Event};
use crate::error::RpcError;
use crate::handle::Devchain;

/// Most filters at a time; the one that was asked least recently goes first.
pub const FILTER_LIMIT: usize = 1_024;
/// Most blocks one `eth_getLogs` searches.
pub const LOG_RANGE_LIMIT: u64 = 10_000;
/// Most logs one `eth_getLogs` gives.
pub const LOG_RESULT_LIMIT: usize = 10_000;

/// Installed filters.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    installed: BTreeMap<u64, Installed>,
    last_id: u64,
    uses: u64,
}

#[derive(Clone, Debug)]
struct Installed {
    kind: Kind,
    /// Next event to report.
    position: u64,
    /// Counts up with every use of any filter.
    used: u64,
}

/// What a filter or subscription reports.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Blocks,
    Transactions,
    Logs(Box<Filter>),
}

/// Answers `method` if it is one of these.
pub(crate) fn answer(chain: &Devchain, method: &str, params: &Params<'_>) -> Option<Answer> {
    Some(match method {
        "eth_getLogs" => params
            .required(0, "filter")
            .and_then(|filter| logs(&chain.lock(), &filter))
            .and_then(result),
        "eth_newFilter" => params
            .required::<Filter>(0, "filter")
            .and_then(|filter| install(chain, Kind::Logs(Box::new(filter)))),
        "eth_newBlockFilter" => install(chain, Kind::Blocks),
        "eth_newPendingTransactionFilter" => install(chain, Kind::Transactions),
        "eth_getFilterChanges" => changes(chain, params),
        "eth_getFilterLogs" => filter_logs(chain, params),
        "eth_uninstallFilter" => uninstall(chain, params),
        _ => return None,
    })
}

/// The logs of the chain that `filter` asks for.
pub(crate) fn logs(chain: &Chain, filter: &Filter) -> Result<Vec<Log>, RpcError> {
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let number =
                chain.history().number_of(hash).ok_or_else(|| RpcError::server("unknown block"))?;
            (number, number)
        }
        FilterBlockOption::Range { from_block, to_block } => {
            let head = chain.history().head().number();
            let number = |tag: Option<alloy::eips::BlockNumberOrTag>| match tag {
                None => head,
                Some(tag) => tag.as_number().unwrap_or_else(|| chain.number(tag).unwrap_or(head)),
            };
            let (from, to) = (number(from_block), number(to_block));
            if from > to && from_block.is_some() && to_block.is_some() {
                return Err(RpcError::params("invalid block range params"));
            }
            (from.max(chain.history().first()), to.min(head))
        }
    };
    if to.saturating_sub(from) >= LOG_RANGE_LIMIT {
        return Err(RpcError::limit(format!("block range exceeds {LOG_RANGE_LIMIT} blocks")));
    }
    let mut found = Vec::new();
    for number in from..=to {
        if let Some(block) = chain.history().block(number) {
            found.extend(convert::logs(block, filter, Standing::Canonical));
        }
        if found.len() > LOG_RESULT_LIMIT {
            return Err(RpcError::limit(format!(
                "query returned more than {LOG_RESULT_LIMIT} logs"
            )));
        }
    }
    Ok(found)
}

/// Whether a subscription's logs are within the range that its filter names.
pub(crate) fn in_range(filter: &Filter, number: u64) -> bool {
    let (from, to) = filter.extract_block_range();
    from.is_none_or(|from| number >= from) && to.is_none_or(|to| number <= to)
}

fn install(chain: &Devchain, kind: Kind) -> Answer {
    let position = chain.lock().event_end();
    let mut filters = chain.filters();
    filters.last_id += 1;
    filters.uses += 1;
    let (id, used) = (filters.last_id, filters.uses);
    filters.installed.insert(id, Installed { kind, position, used });
    if filters.installed.len() > FILTER_LIMIT {
        let idle =
            filters.installed.iter().min_by_key(|(_, filter)| filter.used).map(|(id, _)| *id);
        idle.inspect(|id| {
            filters.installed.remove(id);
        });
    }
    result(U64::from(id))
}

fn uninstall(chain: &Devchain, params: &Params<'_>) -> Answer {
    let id = id(params)?;
    result(chain.filters().installed.remove(&id).is_some())
}

fn changes(chain: &Devchain, params: &Params<'_>) -> Answer {
    let id = id(params)?;
    // The filter stays locked while events are read, so that two readers never report the same event.
    let mut filters = chain.filters();
    filters.uses += 1;
    let used = filters.uses;
    let filter = filters.installed.get_mut(&id).ok_or_else(not_found)?;
    let (events, end) = {
        let chain = chain.lock();
        (chain.events_since(filter.position), chain.event_end())
    };
    filter.position = end;
    filter.used = used;
    let kind = filter.kind.clone();
    let Some(events) = events else {
        filters.installed.remove(&id);
        return Err(not_found());
    };
    drop(filters);
    match kind {
        Kind::Logs(filter) => {
            let logs = events.iter().flat_map(|event| event_logs(event, &filter));
            result(logs.collect::<Vec<Log>>())
        }
        Kind::Blocks => result(hashes(&events, |event| match event {
            Event::Added(block) => Some(block.hash),
            _ => None,
        })),
        Kind::Transactions => result(hashes(&events, |event| match event {
            Event::Pending(hash) => Some(*hash),
            _ => None,
        })),
    }
}

/// What one event means to a log filter.
pub(crate) fn event_logs(event: &Event, filter: &Filter) -> Vec<Log> {
    let (block, standing) = match event {
        Event::Added(block) => (block, Standing::Canonical),
        Event::Removed(block) => (block, Standing::Removed),
        Event::Pending(_) => return Vec::new(),
    };
    if in_range(filter, block.number()) {
        convert::logs(block, filter, standing)
    } else {
        Vec::new()
    }
}

fn filter_logs(chain: &Devchain, params: &Params<'_>) -> Answer {
    let id = id(params)?;
    let kind = chain.filters().installed.get(&id).ok_or_else(not_found)?.kind.clone();
    match kind {
        Kind::Logs(filter) => result(logs(&chain.lock(), &filter)?),
        _ => Err(not_found()),
    }
}

fn hashes(events: &[Event], of: impl Fn(&Event) -> Option<B256>) -> Vec<B256> {
    events.iter().filter_map(of).collect()
}

fn id(params: &Params<'_>) -> Result<u64, RpcError> {
    let Quantity(id) = params.required(0, "filter id")?;
    // Ids this chain never gave are simply not found.
    Ok(u64::try_from(id.min(U256::from(u64::MAX))).unwrap_or(u64::MAX))
}

fn not_found() -> RpcError {
    RpcError::server("filter not found")
}
