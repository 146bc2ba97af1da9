//! The resource server: everything its gates share, checked against the facilitator at start.
//!
//! **Invariant:** a server that cannot be paid does not start. A missing facilitator, kind or
//! setting is an error here, never a route that answers for free.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use pay402_core::asset::canonical_address;
use pay402_core::error::Misconfigured;
use pay402_core::facilitator::{Facilitator, Kind, Supported};
use pay402_core::grants::Grants;
use pay402_core::scheme::{ServerScheme, Tariff};
use pay402_core::time::{Clock, SystemClock};
use pay402_core::{NetworkId, PaymentKey, Requirements, WireVersion};

use crate::gate::Gate;
use crate::layer::PaymentLayer;
use crate::place::{Base, RequestMeta};
use crate::route::{MAX_TIMEOUT_S_LIMIT, Route};

/// Largest 402 a route may need at its root path, in bytes of headers: proxies refuse answers
/// with more than about 8 KB, and the path still has to fit.
pub const OFFER_BYTES_MAX: usize = 5 * 1024;
/// How often forgotten claims are pruned, in seconds.
const PRUNE_EVERY_S: u64 = 60;

/// Sells resources: makes a [`Gate`] or a [`PaymentLayer`] for each paid [`Route`]. Cheap to clone.
#[derive(Clone)]
pub struct ResourceServer {
    shared: Arc<Shared>,
}

impl ResourceServer {
    /// A server paid through `facilitator` that keeps its claims in `grants`.
    pub fn builder(facilitator: Arc<dyn Facilitator>, grants: Arc<dyn Grants>) -> Builder {
        Builder {
            facilitator,
            grants,
            schemes: Vec::new(),
            clock: Arc::new(SystemClock),
            base: None,
            unsettled_max: None,
        }
    }

    /// The gate of one route.
    ///
    /// # Errors
    /// The setting of the route that cannot work: `price`, `pay_to`, `network`,
    /// `max_timeout_seconds`, `description`; or `scheme` when the server does not sell by the one
    /// that the route is paid by, `facilitator` when it does not settle a kind that the route asks
    /// for.
    pub fn gate(&self, route: Route) -> Result<Gate, Misconfigured> {
        check_settings(&route)?;
        if !self.shared.schemes.iter().any(|scheme| scheme.scheme() == route.scheme) {
            let problem =
                format!("{} is missing; this route can be paid by no other", route.scheme);
            return Err(Misconfigured::new("scheme", problem));
        }
        let tariff = route.price.tariff()?;
        let mut offers = Vec::new();
        for name in &route.networks {
            let network = NetworkId::parse_any(name)
                .map_err(|error| Misconfigured::new("network", error.to_string()))?;
            let before = offers.len();
            let fits = |scheme: &&Arc<dyn ServerScheme>| {
                scheme.scheme() == route.scheme && scheme.serves(&network)
            };
            for scheme in self.shared.schemes.iter().filter(fits) {
                offers.push(self.offer(scheme, &network, &tariff, &route)?);
            }
            if offers.len() == before {
                let problem =
                    format!("{network} is served by no scheme {} of this server", route.scheme);
                return Err(Misconfigured::new("network", problem));
            }
        }
        let gate = Gate::new(self.shared.clone(), offers, route);
        check_size(&gate)?;
        Ok(gate)
    }

    /// The tower layer of one route.
    ///
    /// # Errors
    /// As [`ResourceServer::gate`].
    pub fn layer(&self, route: Route) -> Result<PaymentLayer, Misconfigured> {
        self.gate(route).map(PaymentLayer::new)
    }

    /// Waits until no settlement is under way in this process, at most `longest`. To be called at
    /// shutdown, after the HTTP server has stopped taking requests. Returns whether it came to
    /// that; what is left is found again in the claims.
    pub async fn drain(&self, longest: Duration) -> bool {
        const LOOK_AGAIN_MS: u64 = 20;
        let idle = async {
            while !self.shared.settling().is_empty() {
                tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_MS)).await;
            }
        };
        tokio::time::timeout(longest, idle).await.is_ok()
    }

    fn offer(
        &self,
        scheme: &Arc<dyn ServerScheme>,
        network: &NetworkId,
        tariff: &Tariff,
        route: &Route,
    ) -> Result<Offer, Misconfigured> {
        let (supported, name) = (&self.shared.supported, scheme.scheme());
        let has = |version: &WireVersion| {
            version.has_scheme(&name) && supported.has(*version, &name, network)
        };
        let versions: Vec<_> = WireVersion::ALL.into_iter().filter(has).collect();
        if !versions.contains(&WireVersion::CURRENT) {
            let problem = format!(
                "does not settle {name} on {network} in version {}; it settles {}. Choose another \
                 facilitator or network",
                WireVersion::CURRENT.number(),
                list(supported)
            );
            return Err(Misconfigured::new("facilitator", problem));
        }
        let mut terms =
            scheme.requirements(network, tariff, &route.pay_to, route.max_timeout_seconds)?;
        // What the facilitator needs in `extra` is added, but what the scheme set stays.
        let same = |kind: &&Kind| kind.scheme == name && kind.network == *network;
        let kinds = supported.kinds.iter().filter(same);
        let kinds = kinds.filter(|kind| kind.version == WireVersion::CURRENT);
        for (key, value) in kinds.flat_map(|kind| &kind.extra) {
            terms.extra.entry(key.clone()).or_insert_with(|| value.clone());
        }
        scheme
            .terms_form(&terms)
            .map_err(|error| Misconfigured::new(setting_of(&error.field), error.to_string()))?;
        let decimals = decimals_of(tariff, &terms)?;
        let in_dollars = matches!(tariff, Tariff::Usd(_));
        Ok(Offer { scheme: scheme.clone(), terms, versions, decimals, in_dollars })
    }
}

fn check_settings(route: &Route) -> Result<(), Misconfigured> {
    if route.networks.is_empty() {
        let problem = "names no network; add one such as eip155:8453";
        return Err(Misconfigured::new("network", problem));
    }
    if !(1..=MAX_TIMEOUT_S_LIMIT).contains(&route.max_timeout_seconds) {
        let problem = format!("must be 1 to {MAX_TIMEOUT_S_LIMIT} seconds");
        return Err(Misconfigured::new("max_timeout_seconds", problem));
    }
    let prefix = &route.mounted_at;
    if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/')) {
        let problem = "must begin with a slash and not end with one, such as /v1";
        return Err(Misconfigured::new("mounted_at", problem));
    }
    Ok(())
}

/// The decimals of the asset that `terms` ask for. A price in dollars does not say them, but the
/// amount that the scheme made of it does: there is one number of places that leads there.
fn decimals_of(tariff: &Tariff, terms: &Requirements) -> Result<u8, Misconfigured> {
    match tariff {
        Tariff::Atomic { asset, .. } => Ok(asset.decimals),
        Tariff::Usd(price) => {
            let leads_there = |places: &u8| price.to_amount(*places) == Ok(terms.amount);
            (0..=u8::MAX).find(leads_there).ok_or_else(|| {
                let problem = format!("{price} is not what {} atomic units are", terms.amount);
                Misconfigured::new("price", problem)
            })
        }
    }
}

fn check_size(gate: &Gate) -> Result<(), Misconfigured> {
    let host = HeaderMap::from_iter([(http::header::HOST, "localhost".parse().expect("ASCII"))]);
    let root = RequestMeta { method: &Method::GET, uri: &Uri::from_static("/"), headers: &host };
    let bytes: usize = gate.asking(&root).headers.values().map(|value| value.len()).sum();
    if bytes > OFFER_BYTES_MAX {
        let problem = format!(
            "makes a 402 of {bytes} bytes of headers, and proxies refuse large ones; shorten it, \
             or offer fewer networks, to stay below {OFFER_BYTES_MAX}"
        );
        return Err(Misconfigured::new("description", problem));
    }
    Ok(())
}

/// The route's setting behind a field of the requirements.
fn setting_of(field: &str) -> &str {
    match field {
        "payTo" => "pay_to",
        "amount" | "maxAmountRequired" => "price",
        other => other,
    }
}

fn list(supported: &Supported) -> String {
    const SHOWN: usize = 16;
    let kinds = supported.kinds.iter().take(SHOWN);
    let kinds: Vec<_> = kinds
        .map(|kind| {
            format!("{} on {} (version {})", kind.scheme, kind.network, kind.version.number())
        })
        .collect();
    if kinds.is_empty() { "nothing known here".to_owned() } else { kinds.join(", ") }
}

/// Gathers what a [`ResourceServer`] needs. See [`ResourceServer::builder`].
#[must_use]
pub struct Builder {
    facilitator: Arc<dyn Facilitator>,
    grants: Arc<dyn Grants>,
    schemes: Vec<Arc<dyn ServerScheme>>,
    clock: Arc<dyn Clock>,
    base: Option<Result<Base, Misconfigured>>,
    unsettled_max: Option<NonZeroUsize>,
}

impl Builder {
    /// Also sells by `scheme`.
    pub fn scheme(mut self, scheme: Arc<dyn ServerScheme>) -> Self {
        self.schemes.push(scheme);
        self
    }

    /// Where clients reach this server, such as `https://api.example.com`: the beginning of every
    /// resource URL. Required, unless [`Builder::loopback_urls`] is called.
    pub fn public_url(mut self, url: &str) -> Self {
        self.base = Some(Base::public(url));
        self
    }

    /// Takes the beginning of resource URLs from the `Host` header, and answers 400 to every
    /// request whose `Host` is not a loopback name. For development: a public server that
    /// believed `Host` would sell under any name a client makes up.
    pub fn loopback_urls(mut self) -> Self {
        self.base = Some(Ok(Base::LoopbackHost));
        self
    }

    /// Where the time comes from; the machine's wall clock unless set.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Serves at most `count` requests of one payer at a time that are not settled yet; further
    /// ones are answered 429. No bound unless set.
    ///
    /// Verification shows that a balance covers one payment, not that it covers all that are under
    /// way, and a payer can take it away while the handler runs. What one payer can make this
    /// server lose is bounded by this count times the cost of a handler's run.
    pub fn unsettled_per_payer_max(mut self, count: NonZeroUsize) -> Self {
        self.unsettled_max = Some(count);
        self
    }

    /// Asks the facilitator what it settles, and starts.
    ///
    /// # Errors
    /// `facilitator` when it cannot be asked, `public_url` when it is missing or wrong, `scheme`
    /// when there is none.
    pub async fn start(self) -> Result<ResourceServer, Misconfigured> {
        let missing = "is missing; set where clients reach this server, such as \
                       https://api.example.com";
        let base = self.base.ok_or_else(|| Misconfigured::new("public_url", missing))??;
        if self.schemes.is_empty() {
            return Err(Misconfigured::new("scheme", "is missing; add one to sell by"));
        }
        let supported = self.facilitator.supported().await.map_err(|error| {
            let problem = format!("cannot be asked what it settles ({error}); is it running?");
            Misconfigured::new("facilitator", problem)
        })?;
        let pruned_at = AtomicU64::new(self.clock.now().0);
        Ok(ResourceServer {
            shared: Arc::new(Shared {
                facilitator: self.facilitator,
                grants: self.grants,
                schemes: self.schemes,
                clock: self.clock,
                base,
                supported,
                settling: Mutex::default(),
                unsettled_max: self.unsettled_max.map(NonZeroUsize::get),
                unsettled: Mutex::default(),
                pruned_at,
            }),
        })
    }
}

/// One way to pay for a route, with the versions in which the facilitator settles it.
pub(crate) struct Offer {
    pub(crate) scheme: Arc<dyn ServerScheme>,
    pub(crate) terms: Requirements,
    pub(crate) versions: Vec<WireVersion>,
    /// Decimal places of the asset.
    pub(crate) decimals: u8,
    /// Whether the price was given in dollars.
    pub(crate) in_dollars: bool,
}

/// What all gates of a server share.
pub(crate) struct Shared {
    pub(crate) facilitator: Arc<dyn Facilitator>,
    pub(crate) grants: Arc<dyn Grants>,
    pub(crate) schemes: Vec<Arc<dyn ServerScheme>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) base: Base,
    pub(crate) supported: Supported,
    /// Payments that this process is settling now; as many as requests in flight.
    settling: Mutex<HashSet<PaymentKey>>,
    unsettled_max: Option<usize>,
    /// Tickets by payer; as many as requests in flight.
    unsettled: Mutex<HashMap<String, usize>>,
    pruned_at: AtomicU64,
}

impl Shared {
    /// Marks `key` as being settled by this process; `None` when it is already.
    pub(crate) fn enter_settling(self: &Arc<Self>, key: &PaymentKey) -> Option<SettlingHere> {
        let fresh = self.settling().insert(key.clone());
        fresh.then(|| SettlingHere { shared: self.clone(), key: key.clone() })
    }

    fn settling(&self) -> MutexGuard<'_, HashSet<PaymentKey>> {
        // A set of keys cannot be left half changed.
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more unsettled payment of `payer`; `None` when there are too many already.
    pub(crate) fn expose(self: &Arc<Self>, payer: &str) -> Option<Exposed> {
        let Some(limit) = self.unsettled_max else { return Some(Exposed { counted: None }) };
        let payer = canonical_address(payer);
        let mut unsettled = self.unsettled();
        let count = unsettled.entry(payer.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Exposed { counted: Some((self.clone(), payer)) })
    }

    fn unsettled(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now and then has claims forgotten whose time is over.
    pub(crate) fn prune_sometimes(self: &Arc<Self>) {
        let now = self.clock.now();
        let last = self.pruned_at.load(Ordering::Relaxed);
        let due = now.0 >= last.saturating_add(PRUNE_EVERY_S);
        let order = Ordering::Relaxed;
        if due && self.pruned_at.compare_exchange(last, now.0, order, order).is_ok() {
            let shared = self.clone();
            tokio::spawn(async move {
                if let Err(error) = shared.grants.prune(now).await {
                    tracing::warn!(%error, "claims could not be pruned");
                }
            });
        }
    }
}

/// While it lives, this process is settling a payment.
pub(crate) struct SettlingHere {
    shared: Arc<Shared>,
    key: PaymentKey,
}

impl Drop for SettlingHere {
    fn drop(&mut self) {
        self.shared.settling().remove(&self.key);
    }
}

/// While it lives, a payment counts against its payer.
pub(crate) struct Exposed {
    counted: Option<(Arc<Shared>, String)>,
}

impl Drop for Exposed {
    fn drop(&mut self) {
        let Some((shared, payer)) = self.counted.take() else { return };
        let mut unsettled = shared.unsettled();
        if let Some(count) = unsettled.get_mut(&payer) {
            *count -= 1;
            if *count == 0 {
                unsettled.remove(&payer);
            }
        }
    }
}
