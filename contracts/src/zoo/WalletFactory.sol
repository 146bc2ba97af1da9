// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Wallet1271} from "../Wallet1271.sol";

/// @title Deploys contract accounts at addresses that are known before (ERC-6492)
/// @notice For tests only.
contract WalletFactory {
    /// Deploys the account of `owner` under `salt`; one that stands already is left as it is.
    function deploy(address owner, bytes32 salt) external returns (address wallet) {
        wallet = predict(owner, salt);
        if (wallet.code.length == 0) new Wallet1271{salt: salt}(owner);
    }

    /// Where `deploy` with the same arguments puts the account.
    function predict(address owner, bytes32 salt) public view returns (address) {
        bytes32 codeHash = keccak256(abi.encodePacked(type(Wallet1271).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, codeHash)))));
    }
}
