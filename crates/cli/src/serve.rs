//! `pay402 serve`: a small resource that is for sale, to try clients and facilitators against.

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use alloy::hex;
use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::middleware::{self, Next};
use axum::response::Json;
use axum::routing::{MethodFilter, on};
use axum::{Extension, Router};
use http::{StatusCode, Uri};
use pay402_core::error::Misconfigured;
use pay402_core::grants::Grants;
use pay402_server::{Charge, MemoryGrants, RemoteFacilitator, ResourceServer};
use pay402_store::SqliteGrants;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, oneshot};
use url::Url;

use crate::error::CliError;
use crate::sale::{Meter, SaleArgs};
use crate::secret::{self, API_KEY};
use crate::terminal;

/// How long connections have to end once nothing has to be finished any more.
pub(crate) const CONNECTION_GRACE: Duration = Duration::from_secs(2);
/// Hexadecimal digits of the name of a store of claims: 128 random bits.
const CLAIMS_NAME_DIGITS: usize = 32;
/// Requests that are served at a time.
const SALES: usize = 1024;
/// How long sales that are under way may take to finish after a signal to stop.
const DRAIN: Duration = Duration::from_secs(25);

/// Sell an example answer over HTTP 402.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  pay402 serve --facilitator http://127.0.0.1:4020 \\\n    \
    --pay-to 0xYourAddress --network eip155:84532 --price '$0.01' --route 'GET /paid'\n\n\
    By use, in steps of a quarter cent up to a cent:\n  \
    pay402 serve … --price '$0.01' --upto '$0.0025'\n\n\
    A facilitator that asks for an API key finds it in FACILITATOR_API_KEY, or in the file that\n\
    FACILITATOR_API_KEY_FILE names.")]
pub(crate) struct Args {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:4021")]
    listen: SocketAddr,
    /// URL of the facilitator that verifies and settles.
    #[arg(long, env = "FACILITATOR_URL", hide_env_values = true)]
    facilitator: Url,
    /// Address that is paid.
    #[arg(long, env = "EVM_PAYEE_ADDRESS")]
    pay_to: String,
    /// Network to be paid on: a CAIP-2 id such as eip155:8453, or a name such as base.
    #[arg(long, env = "EVM_NETWORK", default_value = "eip155:84532")]
    network: String,
    #[command(flatten)]
    sale: SaleArgs,
    /// Method and path that are for sale. May be repeated.
    #[arg(long = "route", default_value = "GET /paid")]
    routes: Vec<String>,
    /// Where clients reach this server; needed when that is not this machine.
    #[arg(long)]
    public_url: Option<Url>,
    /// File in which claims survive a restart; without it they are kept in memory.
    #[arg(long)]
    database: Option<PathBuf>,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let (app, server) = app(&args).await?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr().map_err(|error| CliError::general(error.to_string()))?;
    terminal::say(&format!(
        "selling {} for {} on http://{address}",
        args.routes.join(", "),
        args.sale.price
    ));
    let under_way = Arc::new(Semaphore::new(SALES));
    let counted = Arc::clone(&under_way);
    let app = app.layer(middleware::from_fn(move |request, next: Next| {
        let counted = Arc::clone(&counted);
        async move {
            // The semaphore is never closed.
            let _sale = counted.acquire_owned().await;
            next.run(request).await
        }
    }));
    let finish = async move {
        let all = under_way.acquire_many(u32::try_from(SALES).unwrap_or(u32::MAX));
        // Settlements of clients that hung up go on without a request.
        let settled = async { (all.await.is_ok(), server.drain(DRAIN).await) };
        _ = tokio::time::timeout(DRAIN, settled).await;
    };
    serve_until_stopped(listener, app, std::future::ready(()), finish).await
}

async fn app(args: &Args) -> Result<(Router, ResourceServer), CliError> {
    let routes = parse_routes(&args.routes)?;
    let facilitator = facilitator(args)?;
    let grants: Arc<dyn Grants> = match &args.database {
        Some(path) => Arc::new(SqliteGrants::open(path)?),
        None => Arc::new(MemoryGrants::default()),
    };
    let sale = args.sale.sale(&args.network)?;
    let builder = ResourceServer::builder(Arc::new(facilitator), grants).scheme(sale.scheme());
    let builder = match &args.public_url {
        Some(url) => builder.public_url(url.as_str()),
        None if args.listen.ip().is_loopback() => builder.loopback_urls(),
        None => {
            let problem =
                "is needed when listening beyond this machine: set where clients reach it";
            return Err(Misconfigured::new("--public-url", problem).into());
        }
    };
    let server = builder.start().await?;
    let mut app = Router::new();
    for (method, path) in routes {
        let route = sale
            .route(&args.pay_to)
            .on(&args.network)
            .description("An example answer for sale")
            .mime_type("application/json");
        let handler = on(method, answer).layer(server.layer(route)?);
        app = app.route(path, handler.with_state(sale.meter()));
    }
    Ok((app, server))
}

/// The facilitator, called with the key in `FACILITATOR_API_KEY` when there is one.
fn facilitator(args: &Args) -> Result<RemoteFacilitator, Misconfigured> {
    let facilitator = RemoteFacilitator::new(args.facilitator.as_str())?;
    let Some(bearer) = secret::bearer()? else { return Ok(facilitator) };
    let bearer = bearer.to_str().expect("it was made of visible characters");
    let facilitator = facilitator.header("authorization", bearer)?;
    let name = match &args.database {
        Some(database) => claims_name(database)?,
        None => random_name()?,
    };
    Ok(facilitator.idempotent_for(name))
}

/// The name of the claims in `database`. It lies beside the file, so that the settlements whose
/// answer was lost are asked for under the same name after a restart, and servers with other claims
/// never share it.
fn claims_name(database: &Path) -> Result<String, Misconfigured> {
    let mut path = database.as_os_str().to_owned();
    path.push(".claims");
    let path = PathBuf::from(path);
    let fail = |problem: &dyn Display| {
        Misconfigured::new("--database", format!("{}: {problem}", path.display()))
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(&path) {
        Ok(mut file) => {
            let name = random_name()?;
            let written = file.write_all(name.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|error| fail(&error))?;
            Ok(name)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let name = secret::from_file("--database", &path)?;
            let well = name.len() == CLAIMS_NAME_DIGITS
                && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let problem = "is no name of claims; remove the file to have a new one made";
            if well { Ok(name.to_string()) } else { Err(fail(&problem)) }
        }
        Err(error) => Err(fail(&error)),
    }
}

fn random_name() -> Result<String, Misconfigured> {
    let mut id = [0_u8; CLAIMS_NAME_DIGITS / 2];
    getrandom::fill(&mut id)
        .map_err(|error| Misconfigured::new(API_KEY, format!("needs randomness: {error}")))?;
    Ok(hex::encode(id))
}

/// Reads what is for sale, each once.
fn parse_routes(texts: &[String]) -> Result<Vec<(MethodFilter, &str)>, CliError> {
    let mut routes = Vec::with_capacity(texts.len());
    for text in texts {
        let route = parse_route(text)?;
        if routes.contains(&route) {
            return Err(CliError::usage(format!("--route {text:?} is there twice")));
        }
        routes.push(route);
    }
    Ok(routes)
}

/// Reads `"GET /path"`: a path as requests carry it, letter by letter, which has no pattern, no
/// query and nothing that a client would write in another way.
fn parse_route(text: &str) -> Result<(MethodFilter, &str), CliError> {
    let bad = |problem: &str| CliError::usage(format!("--route {text:?} {problem}"));
    let (method, path) =
        text.split_once(' ').ok_or_else(|| bad("must be a method and a path: 'GET /paid'"))?;
    if !path.starts_with('/') {
        return Err(bad("must have a path that begins with a slash"));
    }
    if path.contains(['?', '#']) {
        return Err(bad(
            "must end with its path: a route is for sale with every query, and has no \
                        fragment",
        ));
    }
    let is_pattern = |segment: &str| segment.starts_with([':', '*']);
    if path.contains(['{', '}']) || path.split('/').any(is_pattern) {
        return Err(bad("must have a plain path: patterns are not sold here"));
    }
    let url = Url::parse("http://localhost").and_then(|base| base.join(path));
    if url.is_ok_and(|url| url.path() != path || url.host_str() != Some("localhost")) {
        return Err(bad(
            "must have its path as clients send it: without spaces, '..' or '//' at its \
                        beginning, and other letters as %XX",
        ));
    }
    let method = method.parse::<http::Method>().ok();
    let filter = method.and_then(|method| MethodFilter::try_from(method).ok());
    Ok((filter.ok_or_else(|| bad("must begin with a method such as GET"))?, path))
}

async fn answer(
    State(meter): State<Option<Meter>>,
    OriginalUri(uri): OriginalUri,
    body: Bytes,
) -> Result<(Option<Extension<Charge>>, Json<Value>), (StatusCode, &'static str)> {
    let units = units_of(&uri).ok_or((StatusCode::BAD_REQUEST, "units must be a number\n"))?;
    let mut answer = json!({ "ok": true, "server": "pay402", "path": uri.path() });
    if let Ok(received) = serde_json::from_slice::<Value>(&body) {
        answer["received"] = received;
    }
    Ok((meter.map(|meter| Extension(meter.charge(units))), Json(answer)))
}

/// How much a request asks for: `?units=N`, one unless it says; `None` when that is no number.
fn units_of(uri: &Uri) -> Option<u32> {
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut pairs = url::form_urlencoded::parse(query);
    pairs.find(|(name, _)| name == "units").map_or(Some(1), |(_, units)| units.parse().ok())
}

/// Connections that may wait to be accepted, where the system allows so many. One more is tried again by its client,
/// a second later at the soonest.
const BACKLOG: u32 = 4_096;

/// Listens, or says why that is not possible.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, CliError> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let listening = socket.and_then(|socket| {
        // Whoever starts again does not wait until old connections are forgotten.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    listening.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> CliError {
    CliError::network(format!("cannot listen on {address}: {error}"))
        .suggest("is something else using the port? choose another, or 0 for a free one")
}

/// Serves until SIGINT or SIGTERM, and then until `leave` has ended. Then it takes nothing new,
/// `finish` runs beside the requests that are under way, and what is still open
/// [`CONNECTION_GRACE`] after it is cut off.
pub(crate) async fn serve_until_stopped(
    listener: TcpListener,
    app: Router,
    leave: impl Future<Output = ()> + Send + 'static,
    finish: impl Future<Output = ()>,
) -> Result<(), CliError> {
    let (tell, told) = oneshot::channel();
    let asked = async move {
        until_asked_to_stop().await;
        leave.await;
        // Nobody listens once serving has failed.
        let _ = tell.send(());
    };
    let serving = axum::serve(listener, app).with_graceful_shutdown(asked).into_future();
    let mut serving = pin!(serving);
    let broken = |error: std::io::Error| CliError::network(error.to_string());
    let failed = tokio::select! {
        biased;
        asked = told => asked.is_err(),
        served = &mut serving => return served.map_err(broken),
    };
    if failed {
        return serving.await.map_err(broken);
    }
    let mut finish = pin!(finish);
    tokio::select! {
        served = &mut serving => {
            finish.await;
            served.map_err(broken)
        }
        // Half a request keeps its connection open for as long as its sender likes.
        () = &mut finish => match tokio::time::timeout(CONNECTION_GRACE, serving).await {
            Ok(served) => served.map_err(broken),
            Err(_) => Ok(()),
        },
    }
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn until_asked_to_stop() {
    let interrupt = async {
        // Without a handler for the signal there is nothing to wait for but the other one.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending::<()>().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_keep_their_name_and_share_it_with_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("grants.db");
        let name = claims_name(&database).unwrap();
        assert_eq!(claims_name(&database).unwrap(), name);
        assert_ne!(claims_name(&folder.path().join("other.db")).unwrap(), name);
        let file = folder.path().join("grants.db.claims");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        for bad in ["", &name[1..], &name.replace(char::is_numeric, "x")] {
            std::fs::write(&file, bad).unwrap();
            let error = claims_name(&database).unwrap_err().to_string();
            assert!(error.contains("grants.db.claims"), "{bad:?}: {error}");
        }
    }

    /// A burst of clients connects while the program has no time to take any of them.
    #[tokio::test]
    async fn many_connections_may_wait() {
        let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_millis(500);
        let connect = || std::net::TcpStream::connect_timeout(&address, patience);
        let waiting: Vec<_> = (0..400).map(|_| connect().unwrap()).collect();
        assert_eq!(waiting.len(), 400);
    }

    #[test]
    fn a_request_says_how_many_units_it_wants() {
        let units = |uri: &str| units_of(&uri.parse().unwrap());
        for (uri, wanted) in [("/paid", 1), ("/paid?a=b&units=3", 3), ("/paid?units=0", 0)] {
            assert_eq!(units(uri), Some(wanted), "{uri}");
        }
        for bad in ["/paid?units=", "/paid?units=-1", "/paid?units=many", "/paid?units=4294967296"]
        {
            assert_eq!(units(bad), None, "{bad}");
        }
    }

    #[test]
    fn routes_are_a_method_and_a_plain_path() {
        assert_eq!(parse_route("GET /paid").unwrap(), (MethodFilter::GET, "/paid"));
        for good in ["GET /", "POST /a/b", "GET /a:b", "GET /caf%C3%A9", "GET /a//b", "GET /a*"] {
            let (_, path) = parse_route(good).unwrap();
            // The router takes what is read; it panics at what it does not.
            let _ = Router::<()>::new().route(path, on(MethodFilter::GET, async || ""));
        }
        for bad in [
            "/paid",
            "GET",
            "GET paid",
            "FETCH /paid",
            "GET /{any}",
            "GET /a/{any",
            "GET /*",
            "GET /:id",
            "GET /a/:id",
            "GET /a/*rest",
            "GET /a?b=1",
            "GET /a?",
            "GET /a#b",
            "GET /a b",
            "GET /café",
            "GET /a/../b",
            "GET //evil.example/a",
            "GET ",
            "GET /a\n",
            "",
        ] {
            let error = parse_route(bad).err();
            assert!(error.is_some_and(|error| error.exit == 2), "{bad:?} was read as a route");
        }
        let routes = |texts: &[&str]| {
            parse_routes(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).is_ok()
        };
        assert!(routes(&["GET /a", "POST /a", "GET /b"]));
        assert!(!routes(&["GET /a", "POST /a", "GET /a"]));
    }
}
