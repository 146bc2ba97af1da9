//! What there is to ask, as an OpenAPI document.
//!
//! The document lies beside this file and is written by hand; what the code knows better is filled
//! in: the version and the refusal codes. Tests hold it against the routes and the answers.

use std::sync::OnceLock;

use axum::http::StatusCode;
use axum::response::Response;
use pay402_core::Refusal;
use serde_json::Value;

use super::answer::json_answer;

const WRITTEN: &str = include_str!("openapi.json");

pub(super) async fn openapi() -> Response {
    json_answer(StatusCode::OK, document())
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document: Value =
            serde_json::from_str(WRITTEN).expect("the document was parsed in tests");
        document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
        let codes = &mut document["components"]["schemas"]["RefusalCode"];
        codes["enum"] = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
        codes["x-enumDescriptions"] =
            Refusal::ALL.iter().map(|refusal| refusal.describe()).collect();
        document
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::routes;
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let served: BTreeSet<_> = routes()
            .iter()
            .flat_map(|route| {
                let methods = route.methods.iter().map(|method| method.to_lowercase());
                methods.map(|method| format!("{method} {}", route.path)).collect::<Vec<_>>()
            })
            .collect();
        let paths = document()["paths"].as_object().unwrap();
        let described: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, operations)| {
                let methods = operations.as_object().unwrap().keys();
                methods.map(move |method| format!("{method} {path}"))
            })
            .collect();
        assert_eq!(served, described);
    }

    #[test]
    fn operations_have_names_of_their_own_and_references_lead_somewhere() {
        let mut names = BTreeSet::new();
        for operations in document()["paths"].as_object().unwrap().values() {
            for operation in operations.as_object().unwrap().values() {
                assert!(names.insert(operation["operationId"].as_str().unwrap()), "{operation}");
                assert!(!operation["summary"].as_str().unwrap().is_empty());
            }
        }
        fn walk(value: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document().pointer(pointer).is_some(), "{reference}");
                    }
                    map.values().for_each(walk);
                }
                Value::Array(items) => items.iter().for_each(walk),
                _ => {}
            }
        }
        walk(document());
    }

    #[test]
    fn the_code_fills_in_what_it_knows_better() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
        let codes = document()["components"]["schemas"]["RefusalCode"]["enum"].as_array().unwrap();
        assert_eq!(codes.len(), Refusal::ALL.len());
    }
}
