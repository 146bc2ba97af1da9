//! The agent account: adopted, granted and paid from on the embedded chain.

use pay402_devchain::genesis::AGENT_ACCOUNT_ADDRESS;
use pay402_evm::account::AGENT_ACCOUNT;

#[test]
fn the_delegate_is_where_the_embedded_chain_has_it() {
    assert_eq!(AGENT_ACCOUNT, AGENT_ACCOUNT_ADDRESS);
}
