//! Terms as they are kept in a book: version 2's JSON, whatever version they came in.

use super::json::{self, Fields};
use super::{read_requirements, v2};
use crate::error::Malformed;
use crate::{Requirements, WireVersion};

/// Writes requirements for storage.
pub fn write_terms(terms: &Requirements) -> String {
    v2::write_requirements(terms).to_string()
}

/// Reads what [`write_terms`] wrote.
///
/// # Errors
/// The field that is wrong: the stored text was damaged.
pub fn read_terms(text: &str) -> Result<Requirements, Malformed> {
    let value = json::parse(text.as_bytes())?;
    read_requirements(WireVersion::V2, &mut Fields::root(value, "terms")?)
}
