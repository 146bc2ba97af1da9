//! What the variables of OpenTelemetry say, by the names of its specification.
//!
//! The libraries take no notice of a value that they cannot read. Here it is an error that names the variable,
//! before anything is started.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use pay402_core::error::Misconfigured;
use url::Url;

/// Most spans that may wait, or be exported together.
const BATCH_MAX: usize = 65_536;
/// How long one export may take, unless it is set.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often spans are exported, unless it is set.
const DELAY: Duration = Duration::from_secs(5);
/// Spans that wait to be exported, unless it is set; above, they are dropped.
const QUEUE: usize = 2_048;
/// Spans that are exported together, unless it is set.
const BATCH: usize = 512;
/// Longest that a duration may be, in milliseconds: an hour.
const MS_MAX: usize = 3_600_000;

/// How spans are exported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Settings {
    /// Where to; the path is that of traces.
    pub(super) endpoint: Url,
    pub(super) timeout: Duration,
    pub(super) delay: Duration,
    pub(super) queue: usize,
    pub(super) batch: usize,
    /// What the process is called.
    pub(super) service: String,
}

/// Reads the variables; `None` where nothing is to be traced.
///
/// # Errors
/// The first variable whose value is wrong or not supported.
pub(super) fn read(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Settings>, Misconfigured> {
    let variables = Variables(&variable);
    let is_disabled = match variables.get("OTEL_SDK_DISABLED").as_deref() {
        None => false,
        Some(text) if text.eq_ignore_ascii_case("true") => true,
        Some(text) if text.eq_ignore_ascii_case("false") => false,
        Some(_) => return Err(wrong("OTEL_SDK_DISABLED", "must be true or false")),
    };
    let exporter = variables.get("OTEL_TRACES_EXPORTER");
    let is_wanted = match exporter.as_deref() {
        None => variables.endpoint().is_some(),
        Some("otlp") => true,
        Some("none") => false,
        Some(_) => {
            let problem = "must be otlp or none; metrics are at /metrics, for Prometheus";
            return Err(wrong("OTEL_TRACES_EXPORTER", problem));
        }
    };
    if is_disabled || !is_wanted {
        return Ok(None);
    }
    variables.check_what_is_not_supported()?;
    variables.check_headers()?;
    variables.check_attributes()?;
    variables.check_sampler()?;
    let ms = |name, default: Duration| {
        let read = variables.number(name, 1..=MS_MAX)?;
        Ok(read.map_or(default, |ms| Duration::from_millis(ms as u64)))
    };
    let own = ms("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", Duration::ZERO)?;
    let timeout = ms("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT)?;
    let queue = variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 1..=BATCH_MAX)?.unwrap_or(QUEUE);
    let batch = variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=BATCH_MAX)?;
    Ok(Some(Settings {
        endpoint: variables.checked_endpoint()?,
        timeout: if own.is_zero() { timeout } else { own },
        delay: ms("OTEL_BSP_SCHEDULE_DELAY", DELAY)?,
        queue,
        batch: batch.unwrap_or(BATCH).min(queue),
        service: variables.get("OTEL_SERVICE_NAME").unwrap_or_else(|| "pay402-facilitator".into()),
    }))
}

fn wrong(name: &str, problem: &str) -> Misconfigured {
    Misconfigured::new(name, problem)
}

/// The variables; one that is empty counts as not set.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    /// Where traces go to, by which variable.
    fn endpoint(&self) -> Option<(&'static str, String)> {
        let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let shared = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let of = |name| self.get(name).map(|value| (name, value));
        of(own).or_else(|| of(shared))
    }

    fn checked_endpoint(&self) -> Result<Url, Misconfigured> {
        let Some((name, text)) = self.endpoint() else {
            let url = Url::parse("http://localhost:4318/v1/traces");
            return Ok(url.expect("a URL of ours"));
        };
        // It may hold a token, so it is not shown.
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.filter(Url::has_host).ok_or_else(|| {
            wrong(name, "must be a URL of a collector, such as http://localhost:4318")
        })?;
        if name == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" {
            return Ok(url);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(name, "must end with a path: /v1/traces is put behind it"));
        }
        let behind = format!("{}/v1/traces", url.as_str().trim_end_matches('/'));
        Url::parse(&behind).map_err(|_| wrong(name, "cannot have /v1/traces put behind it"))
    }

    fn check_what_is_not_supported(&self) -> Result<(), Misconfigured> {
        for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
            if self.get(name).is_some_and(|protocol| protocol != "http/protobuf") {
                return Err(wrong(name, "must be http/protobuf, the one that is spoken here"));
            }
        }
        for name in ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"] {
            if self.get(name).is_some_and(|compression| compression != "none") {
                return Err(wrong(name, "must be none: nothing is compressed here"));
            }
        }
        for name in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"] {
            for of in ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"] {
                let name = format!("{of}_{name}");
                if self.get(&name).is_some() {
                    let problem = "is not supported; roots are those of this machine";
                    return Err(wrong(&name, problem));
                }
            }
        }
        let known = |name: &str| matches!(name, "tracecontext" | "baggage" | "none");
        let propagators = self.get("OTEL_PROPAGATORS").unwrap_or_default();
        match propagators.split(',').map(str::trim).filter(|it| !it.is_empty()).all(known) {
            true => Ok(()),
            false => Err(wrong("OTEL_PROPAGATORS", "must be of tracecontext, baggage and none")),
        }
    }

    fn check_headers(&self) -> Result<(), Misconfigured> {
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            for pair in pairs(&self.get(name).unwrap_or_default()) {
                let is_header = pair.is_some_and(|(key, value)| {
                    HeaderName::try_from(key).is_ok() && HeaderValue::try_from(value).is_ok()
                });
                if !is_header {
                    // It holds a token, most likely, so it is not shown.
                    return Err(wrong(name, "must be headers as NAME=VALUE, with a comma between"));
                }
            }
        }
        Ok(())
    }

    fn check_attributes(&self) -> Result<(), Misconfigured> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        match pairs(&self.get(name).unwrap_or_default()).all(|pair| pair.is_some()) {
            true => Ok(()),
            false => Err(wrong(name, "must be attributes as KEY=VALUE, with a comma between")),
        }
    }

    fn check_sampler(&self) -> Result<(), Misconfigured> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let sampler = self.get(NAME);
        match sampler.as_deref() {
            None
            | Some(
                "always_on" | "always_off" | "parentbased_always_on" | "parentbased_always_off",
            ) => Ok(()),
            Some("traceidratio" | "parentbased_traceidratio") => {
                let ratio = self.get(ARGUMENT).and_then(|text| text.parse::<f64>().ok());
                match ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)) {
                    true => Ok(()),
                    false => {
                        Err(wrong(ARGUMENT, "must be a ratio from 0 to 1, as the sampler asks"))
                    }
                }
            }
            Some(_) => Err(wrong(
                NAME,
                "must be always_on, always_off, traceidratio, or one of these with parentbased_ before it",
            )),
        }
    }

    fn number(
        &self,
        name: &str,
        within: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, Misconfigured> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.trim().parse().ok().filter(|number| within.contains(number));
        let problem = format!("must be from {} to {}", within.start(), within.end());
        number.map(Some).ok_or_else(|| wrong(name, &problem))
    }
}

/// The pairs of a list; `None` for what is none.
fn pairs(list: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| {
        let (key, value) = item.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        (!key.is_empty()).then_some((key, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(variables: &[(&str, &str)]) -> Result<Option<Settings>, Misconfigured> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    const ON: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");

    #[test]
    fn nothing_is_traced_unless_it_is_said_where_to() {
        assert_eq!(read_of(&[]), Ok(None));
        assert_eq!(read_of(&[("OTEL_SERVICE_NAME", "x")]), Ok(None));
        assert_eq!(read_of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(None));
        assert_eq!(read_of(&[ON, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(None));
        assert_eq!(read_of(&[ON, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        let settings = read_of(&[ON]).unwrap().unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!((settings.queue, settings.batch), (2_048, 512));
        assert_eq!(settings.service, "pay402-facilitator");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c.example/x?token=1");
        assert_eq!(read_of(&[ON, own]).unwrap().unwrap().endpoint.as_str(), own.1);
        let bare = read_of(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap();
        assert_eq!(bare.endpoint.as_str(), "http://localhost:4318/v1/traces");
        let set = [
            ON,
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "20"),
            ("OTEL_BSP_SCHEDULE_DELAY", "30"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "40"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test, a=b"),
        ];
        let set = read_of(&set).unwrap().unwrap();
        let times = (set.timeout.as_millis(), set.delay.as_millis());
        assert_eq!((times, set.queue, set.batch), ((20, 30), 40, 40));
        assert_eq!(set.service, "shop");
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        for (name, value) in [
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "canary:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://canary"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "canary.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "canary.pem"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "=canary"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=canary"),
            ("OTEL_RESOURCE_ATTRIBUTES", "canary"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1e9"),
            ("OTEL_PROPAGATORS", "b3"),
        ] {
            let mut set = vec![ON, (name, value)];
            if name == "OTEL_TRACES_SAMPLER_ARG" {
                set.push(("OTEL_TRACES_SAMPLER", "traceidratio"));
            }
            let error = read_of(&set).expect_err(name);
            assert_eq!(error.key, name);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        let shared = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c.example/?token=canary");
        let error = read_of(&[shared]).expect_err("a query");
        assert_eq!(error.key, shared.0);
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
