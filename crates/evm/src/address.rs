//! Addresses as people and messages write them, read strictly.

use std::cell::RefCell;

use alloy::primitives::Address;

/// Letters of an address as people write it.
const SPELLING_LEN: usize = 42;
/// Addresses whose spelling each thread remembers. A payment names the same few again and again, and
/// each spelling takes a hash.
const SPELLINGS: usize = 128;

thread_local! {
    static REMEMBERED: RefCell<[Option<Spelling>; SPELLINGS]> = const {
        RefCell::new([const { None }; SPELLINGS])
    };
}

/// An address as EIP-55 spells it.
#[derive(Clone, Copy)]
struct Spelling {
    address: Address,
    text: [u8; SPELLING_LEN],
}

impl Spelling {
    fn of(address: &Address) -> Self {
        let place = usize::from(address[19]) % SPELLINGS;
        REMEMBERED.with_borrow_mut(|remembered| match &remembered[place] {
            Some(spelling) if spelling.address == *address => *spelling,
            _ => {
                let mut text = [0; SPELLING_LEN];
                text.copy_from_slice(address.to_checksum(None).as_bytes());
                *remembered[place].insert(Self { address: *address, text })
            }
        })
    }
}

/// Why a text is not an address, and what to write instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not `0x` and 40 hexadecimal digits.
    #[error("must be an address: 0x and 40 hexadecimal digits")]
    Form,
    /// Upper and lower case are mixed, but not as EIP-55 says: most likely a digit is wrong.
    #[error("has a wrong EIP-55 checksum; check the address, or write it in lower case")]
    Checksum,
    /// The zero address, to which nothing may be paid.
    #[error("must not be the zero address")]
    Zero,
}

/// Reads `0x` and 40 hexadecimal digits. Where both cases occur, the EIP-55 checksum must hold.
///
/// # Errors
/// See [`AddressError`]; the zero address is read.
pub fn parse_address(text: &str) -> Result<Address, AddressError> {
    let digits = text.strip_prefix("0x").ok_or(AddressError::Form)?;
    if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(AddressError::Form);
    }
    let address: Address = text.parse().map_err(|_| AddressError::Form)?;
    let mixed = digits.bytes().any(|b| b.is_ascii_lowercase())
        && digits.bytes().any(|b| b.is_ascii_uppercase());
    if mixed && Spelling::of(&address).text != text.as_bytes() {
        return Err(AddressError::Checksum);
    }
    Ok(address)
}

/// Reads an address that is to be paid: as [`parse_address`], and not zero.
///
/// # Errors
/// See [`AddressError`].
pub fn parse_payee(text: &str) -> Result<Address, AddressError> {
    match parse_address(text)? {
        Address::ZERO => Err(AddressError::Zero),
        address => Ok(address),
    }
}

/// The spelling with a checksum (EIP-55), as on the wire.
pub fn checksummed(address: &Address) -> String {
    Spelling::of(address).text.iter().copied().map(char::from).collect()
}

/// The canonical spelling, in keys and books: lower case.
pub fn canonical(address: &Address) -> String {
    format!("{address:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_one_address_is_not_told_of_another() {
        for index in 0..=u8::MAX {
            let mut bytes = [index; 20];
            for last in [0, 1, 128, 129] {
                bytes[19] = last;
                let address = Address::from(bytes);
                for _ in 0..2 {
                    assert_eq!(checksummed(&address), address.to_checksum(None));
                }
            }
        }
    }

    #[test]
    fn addresses_are_read_strictly() {
        let checksummed = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
        let address = parse_address(checksummed).unwrap();
        assert_eq!(parse_address(&checksummed.to_lowercase()), Ok(address));
        let upper = format!("0x{}", checksummed[2..].to_uppercase());
        assert_eq!(parse_address(&upper), Ok(address));
        assert_eq!(canonical(&address), checksummed.to_lowercase());

        assert_eq!(super::checksummed(&address), checksummed);
        let swapped = checksummed.replace("CbD", "cBd");
        assert_eq!(parse_address(&swapped), Err(AddressError::Checksum));
        let kelvin = "0x\u{212a}36cbd53842c5426634e7929541ec2318f3dcf7";
        for bad in ["", "0x", "036cbd53842c5426634e7929541ec2318f3dcf7e", kelvin] {
            assert_eq!(parse_address(bad), Err(AddressError::Form), "{bad:?}");
        }
        for bad in [
            "0X036cbd53842c5426634e7929541ec2318f3dcf7e",
            "0x036cbd53842c5426634e7929541ec2318f3dcf7",
            "0x036cbd53842c5426634e7929541ec2318f3dcf7e0",
            "0x036cbd53842c5426634e7929541ec2318f3dcf7g",
            " 0x036cbd53842c5426634e7929541ec2318f3dcf7e",
        ] {
            assert_eq!(parse_address(bad), Err(AddressError::Form), "{bad:?}");
        }
        assert_eq!(parse_payee(&format!("0x{:040}", 0)), Err(AddressError::Zero));
    }
}
