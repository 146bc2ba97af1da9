//! Version 2: what [`crate::payment`] holds, as JSON.

use serde_json::{Map, Value};

use super::json::Fields;
use super::{read_accepts, read_requirements, requirements_map};
use crate::WireVersion;
use crate::error::Malformed;
use crate::payment::{PaymentRequired, Presented, Requirements};
use crate::resource::ResourceInfo;

pub(super) fn read_payment_required(mut fields: Fields) -> Result<PaymentRequired, Malformed> {
    Ok(PaymentRequired {
        version: WireVersion::V2,
        error: fields.text_or_null("error")?,
        resource: read_resource(fields.object("resource")?)?,
        accepts: read_accepts(WireVersion::V2, &mut fields)?,
        extensions: fields.map_or_null("extensions")?,
        other: fields.rest(),
    })
}

pub(super) fn write_payment_required(required: &PaymentRequired) -> Value {
    let mut map = Map::new();
    map.insert("x402Version".into(), 2.into());
    if let Some(error) = &required.error {
        map.insert("error".into(), error.clone().into());
    }
    map.insert("resource".into(), write_resource(&required.resource));
    map.insert("accepts".into(), required.accepts.iter().map(write_requirements).collect());
    if !required.extensions.is_empty() {
        map.insert("extensions".into(), Value::Object(required.extensions.clone()));
    }
    map.extend(required.other.clone());
    Value::Object(map)
}

pub(super) fn read_presented(mut fields: Fields) -> Result<Presented, Malformed> {
    let accepted = read_requirements(WireVersion::V2, &mut fields.object("accepted")?)?;
    let resource = match fields.has("resource") {
        true => Some(read_resource(fields.object("resource")?)?),
        false => None,
    };
    Ok(Presented {
        version: WireVersion::V2,
        scheme: accepted.scheme.clone(),
        network: accepted.network.clone(),
        accepted: Some(accepted),
        payload: fields.object("payload")?.rest(),
        resource,
        extensions: fields.map_or_null("extensions")?,
        other: fields.rest(),
    })
}

pub(super) fn write_presented(presented: &Presented) -> Value {
    let mut map = Map::new();
    map.insert("x402Version".into(), 2.into());
    map.insert("payload".into(), Value::Object(presented.payload.clone()));
    if let Some(resource) = &presented.resource {
        map.insert("resource".into(), write_resource(resource));
    }
    if let Some(accepted) = &presented.accepted {
        map.insert("accepted".into(), write_requirements(accepted));
    }
    if !presented.extensions.is_empty() {
        map.insert("extensions".into(), Value::Object(presented.extensions.clone()));
    }
    map.extend(presented.other.clone());
    Value::Object(map)
}

pub(super) fn write_requirements(requirements: &Requirements) -> Value {
    let mut map = requirements_map(WireVersion::V2, "amount", requirements);
    if !requirements.extra.is_empty() {
        map.insert("extra".into(), Value::Object(requirements.extra.clone()));
    }
    map.extend(requirements.other.clone());
    Value::Object(map)
}

fn read_resource(mut fields: Fields) -> Result<ResourceInfo, Malformed> {
    Ok(ResourceInfo {
        url: fields.text("url")?,
        description: fields.text_or_null("description")?,
        mime_type: fields.text_or_null("mimeType")?,
        other: fields.rest(),
    })
}

fn write_resource(resource: &ResourceInfo) -> Value {
    let mut map = Map::new();
    map.insert("url".into(), resource.url.clone().into());
    if let Some(description) = &resource.description {
        map.insert("description".into(), description.clone().into());
    }
    if let Some(mime_type) = &resource.mime_type {
        map.insert("mimeType".into(), mime_type.clone().into());
    }
    map.extend(resource.other.clone());
    Value::Object(map)
}
