//! How our nouns stand in columns, and how they are read back: strictly, so that a damaged row is
//! an error and never another payment. In every database they stand in the same form.
//!
//! **Invariant:** what is written reads back equal, over the whole range of each type.

use std::error::Error;

use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, NetworkId};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{Row, ToSql};

use crate::writer::Stop;

/// Why a column cannot be read.
type Damage = Box<dyn Error + Send + Sync>;

/// What stands in columns of every database as the same text.
pub(crate) trait Text: Sized {
    /// The text that is stored.
    fn to_text(&self) -> String;
    /// Reads it back; strictly.
    fn from_text(text: &str) -> Result<Self, Damage>;
}

/// A column's value, in every database that this build knows.
#[cfg(not(feature = "postgres"))]
pub(crate) trait Column: FromSql {}
#[cfg(not(feature = "postgres"))]
impl<T: FromSql> Column for T {}
/// A column's value, in every database that this build knows.
#[cfg(feature = "postgres")]
pub(crate) trait Column: FromSql + tokio_postgres::types::FromSqlOwned {}
#[cfg(feature = "postgres")]
impl<T: FromSql + tokio_postgres::types::FromSqlOwned> Column for T {}

/// A row, of whichever database, whose columns are read by their names.
pub(crate) trait Columns {
    /// Reads one of them, or says what is wrong with it.
    fn read<T: Column>(&self, column: &str) -> Result<T, String>;
}

impl Columns for Row<'_> {
    fn read<T: Column>(&self, column: &str) -> Result<T, String> {
        self.get(column).map_err(|error| error.to_string())
    }
}

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

impl Text for Whole {
    fn to_text(&self) -> String {
        format!("{:020}", self.0)
    }

    fn from_text(text: &str) -> Result<Self, Damage> {
        let strict = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        if strict { Ok(Self(text.parse()?)) } else { Err("not 20 digits".into()) }
    }
}

/// An amount as decimal text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Money(pub(crate) Amount);

impl Text for Money {
    fn to_text(&self) -> String {
        self.0.to_string()
    }

    fn from_text(text: &str) -> Result<Self, Damage> {
        Ok(Self(Amount::parse(text)?))
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

impl Text for Net {
    fn to_text(&self) -> String {
        self.0.as_str().to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Damage> {
        Ok(Self(NetworkId::parse(text)?))
    }
}

/// Words from elsewhere, such as a contract's: any text at all. PostgreSQL's type for text refuses
/// the character 0, so there it stands as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Words(pub(crate) String);

impl ToSql for Words {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for Words {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        String::column_result(value).map(Self)
    }
}

macro_rules! text_in_sqlite {
    ($($noun:ty),+) => {$(
        impl ToSql for $noun {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.to_text().into())
            }
        }

        impl FromSql for $noun {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Self::from_text(value.as_str()?).map_err(FromSqlError::Other)
            }
        }
    )+};
}

text_in_sqlite!(Whole, Money, Net);

/// The same in PostgreSQL.
#[cfg(feature = "postgres")]
mod postgres {
    use tokio_postgres::types::private::BytesMut;
    use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

    use super::{Column, Columns, Damage, Digest, Hash, Money, Net, Text, Whole, Words};

    impl Columns for tokio_postgres::Row {
        fn read<T: Column>(&self, column: &str) -> Result<T, String> {
            self.try_get(column).map_err(|error| format!("{column}: {error}"))
        }
    }

    macro_rules! text {
        ($($noun:ty),+) => {$(
            impl ToSql for $noun {
                fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Damage> {
                    self.to_text().to_sql(kind, out)
                }

                fn accepts(kind: &Type) -> bool {
                    <&str as ToSql>::accepts(kind)
                }

                to_sql_checked!();
            }

            impl<'a> FromSql<'a> for $noun {
                fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Damage> {
                    Self::from_text(<&str>::from_sql(kind, raw)?)
                }

                fn accepts(kind: &Type) -> bool {
                    <&str as FromSql>::accepts(kind)
                }
            }
        )+};
    }

    text!(Whole, Money, Net);

    macro_rules! bytes {
        ($($noun:ty: $to:expr, $from:expr);+) => {$(
            impl ToSql for $noun {
                fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Damage> {
                    let to: fn(&Self) -> &[u8] = $to;
                    to(self).to_sql(kind, out)
                }

                fn accepts(kind: &Type) -> bool {
                    <&[u8] as ToSql>::accepts(kind)
                }

                to_sql_checked!();
            }

            impl<'a> FromSql<'a> for $noun {
                fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Damage> {
                    let from: fn(&[u8]) -> Result<Self, Damage> = $from;
                    from(<&[u8]>::from_sql(kind, raw)?)
                }

                fn accepts(kind: &Type) -> bool {
                    <&[u8] as FromSql>::accepts(kind)
                }
            }
        )+};
    }

    bytes! {
        Hash: |hash| &hash.0.0, |bytes| Ok(Self(Digest(bytes.try_into()?)));
        Words: |words| words.0.as_bytes(), |bytes| Ok(Self(std::str::from_utf8(bytes)?.to_owned()))
    }
}

/// A column of a row of SQLite by its name.
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
