//! Version 1: network names instead of CAIP-2, `maxAmountRequired`, the resource in every entry.
//!
//! What version 1 says of the resource stays in [`Requirements::other`], so that an offer is
//! echoed and sent on exactly as it came.

use serde_json::{Map, Value};

use super::json::Fields;
use super::{read_accepts, requirements_map};
use crate::error::Malformed;
use crate::network_id::V1_NAMES;
use crate::payment::{PaymentRequired, Presented, Requirements};
use crate::resource::ResourceInfo;
use crate::{NetworkId, Scheme, WireVersion};

pub(super) fn read_payment_required(mut fields: Fields) -> Result<PaymentRequired, Malformed> {
    let accepts = read_accepts(WireVersion::V1, &mut fields)?;
    let said = |key: &str| {
        let value = accepts.first().and_then(|entry| entry.other.get(key));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let resource = ResourceInfo {
        url: said("resource").unwrap_or_default(),
        description: said("description"),
        mime_type: said("mimeType"),
        other: Map::new(),
    };
    Ok(PaymentRequired {
        version: WireVersion::V1,
        error: fields.text_or_null("error")?,
        resource,
        accepts,
        extensions: Map::new(),
        other: fields.rest(),
    })
}

/// Offers that version 1 has no words for are left out: official v1 clients throw the whole 402
/// away in which one entry has another scheme or network. So are the v2 extensions.
pub(super) fn write_payment_required(required: &PaymentRequired) -> Value {
    let entry = |requirements: &Requirements| {
        write_requirements(&about(requirements.clone(), &required.resource))
    };
    let known = |network: &NetworkId| V1_NAMES.iter().any(|(_, id)| *id == network.as_str());
    let payable =
        |entry: &&Requirements| WireVersion::V1.has_scheme(&entry.scheme) && known(&entry.network);
    let mut map = Map::new();
    map.insert("x402Version".into(), 1.into());
    if let Some(error) = &required.error {
        map.insert("error".into(), error.clone().into());
    }
    map.insert("accepts".into(), required.accepts.iter().filter(payable).map(entry).collect());
    map.extend(required.other.clone());
    Value::Object(map)
}

/// `terms` with what version 1 says of the resource in every entry.
pub(super) fn about(mut terms: Requirements, resource: &ResourceInfo) -> Requirements {
    // Official v1 clients and facilitators refuse an entry in which one of these is missing or
    // null.
    let mut default = |key: &str, value: &str| {
        terms.other.entry(key).or_insert_with(|| value.into());
    };
    default("resource", &resource.url);
    default("description", resource.description.as_deref().unwrap_or(""));
    default("mimeType", resource.mime_type.as_deref().unwrap_or(""));
    terms
}

pub(super) fn read_presented(mut fields: Fields) -> Result<Presented, Malformed> {
    Ok(Presented {
        version: WireVersion::V1,
        scheme: Scheme::new(&fields.text("scheme")?),
        network: WireVersion::V1.read_network(&mut fields)?,
        accepted: None,
        payload: fields.object("payload")?.rest(),
        resource: None,
        extensions: Map::new(),
        other: fields.rest(),
    })
}

pub(super) fn write_presented(presented: &Presented) -> Value {
    let mut map = Map::new();
    map.insert("x402Version".into(), 1.into());
    map.insert("scheme".into(), presented.scheme.as_str().into());
    map.insert("network".into(), WireVersion::V1.network_name(&presented.network).into());
    map.insert("payload".into(), Value::Object(presented.payload.clone()));
    map.extend(presented.other.clone());
    Value::Object(map)
}

pub(super) fn write_requirements(requirements: &Requirements) -> Value {
    let mut map = requirements_map(WireVersion::V1, "maxAmountRequired", requirements);
    map.extend(requirements.other.clone());
    if !requirements.extra.is_empty() {
        map.insert("extra".into(), Value::Object(requirements.extra.clone()));
    }
    Value::Object(map)
}
