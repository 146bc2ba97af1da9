//! How our nouns stand in columns, and how they are read back: strictly, so that a damaged row is
//! an error and never another payment.
//!
//! **Invariant:** what is written reads back equal, over the whole range of each type.

use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, NetworkId};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{Row, ToSql};

use crate::writer::Stop;

/// A whole number of 64 bits as text of 20 digits: SQLite's integers are signed, and the order of
/// such texts is the order of the numbers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Whole(pub(crate) u64);

impl From<UnixTime> for Whole {
    fn from(time: UnixTime) -> Self {
        Self(time.0)
    }
}

impl From<Whole> for UnixTime {
    fn from(whole: Whole) -> Self {
        Self(whole.0)
    }
}

impl ToSql for Whole {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(format!("{:020}", self.0).into())
    }
}

impl FromSql for Whole {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        let strict = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if strict { text.parse().ok() } else { None };
        number.map(Self).ok_or(FromSqlError::InvalidType)
    }
}

/// An amount as decimal text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Money(pub(crate) Amount);

impl ToSql for Money {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_string().into())
    }
}

impl FromSql for Money {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Amount::parse(value.as_str()?).map(Self).map_err(FromSqlError::other)
    }
}

/// A digest as 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash(pub(crate) Digest);

impl ToSql for Hash {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.0.to_sql()
    }
}

impl FromSql for Hash {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(|bytes| Self(Digest(bytes)))
    }
}

/// A network by its CAIP-2 id.
#[derive(Clone, Debug)]
pub(crate) struct Net(pub(crate) NetworkId);

impl ToSql for Net {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_str().into())
    }
}

impl FromSql for Net {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        NetworkId::parse(value.as_str()?).map(Self).map_err(FromSqlError::other)
    }
}

/// A column of a row by its name.
pub(crate) fn read<T: FromSql, E>(row: &Row<'_>, column: &str) -> Result<T, Stop<E>> {
    row.get(column).map_err(Stop::Sql)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn the_order_of_the_text_is_the_order_of_the_numbers() {
        let connection = Connection::open_in_memory().unwrap();
        let numbers =
            [0, 1, 9, 10, 99, 1 << 32, i64::MAX.unsigned_abs(), 1 << 63, u64::MAX].map(Whole);
        for pair in numbers.windows(2) {
            let (low, high, less): (Whole, Whole, bool) = connection
                .query_row("SELECT ?1, ?2, ?1 < ?2", [pair[0], pair[1]], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .unwrap();
            assert!(less, "{low:?} is not before {high:?}");
            assert_eq!([low, high], pair);
        }
    }

    #[test]
    fn damaged_columns_are_errors() {
        let connection = Connection::open_in_memory().unwrap();
        let read = |sql: &str| {
            let whole = connection.query_row(sql, [], |row| row.get::<_, Whole>(0)).is_ok();
            let money = connection.query_row(sql, [], |row| row.get::<_, Money>(0)).is_ok();
            let hash = connection.query_row(sql, [], |row| row.get::<_, Hash>(0)).is_ok();
            whole || money || hash
        };
        for sql in ["SELECT NULL", "SELECT 1", "SELECT ''", "SELECT '-1'", "SELECT x'00'"] {
            assert!(!read(sql), "{sql} was read");
        }
        assert!(!read("SELECT '+0000000000000000001'"), "a sign was read as a digit");
    }
}
