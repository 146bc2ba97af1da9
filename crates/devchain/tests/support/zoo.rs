//! The interfaces of the zoo.

alloy::sol! {
    /// Every token of the zoo, and the switches of those that have one.
    interface Token {
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationAlreadyUsed(address indexed authorizer, bytes32 indexed nonce);
        function name() view returns (string);
        function totalSupply() view returns (uint256);
        function balanceOf(address account) view returns (uint256);
        function allowance(address holder, address spender) view returns (uint256);
        function mint(address to, uint256 amount);
        function approve(address spender, uint256 value) returns (bool);
        function transfer(address to, uint256 value) returns (bool);
        function transferFrom(address from, address to, uint256 value) returns (bool);
        function permit(address holder, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s);
        function rebase(uint256 newIndex);
        function setRefusing(bool value);
        function setPaused(bool value);
        function setBlacklisted(address account, bool value);
        function setGasToBurn(uint256 amount);
        function setAnswerBytes(uint256 length);
        function setCallback(address newTarget, bytes newData);
        function lastSuccess() view returns (bool);
        function lastAnswer() view returns (bytes);
        function setRefusal(bytes newRefusal);
        function authorizationState(address authorizer, bytes32 nonce) view returns (bool);
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s);
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
    }

    interface Wallet {
        function isValidSignature(bytes32 digest, bytes signature) view returns (bytes4);
        function execute(address target, uint256 value, bytes data) payable;
        function setFlipsAt(uint256 firstRefusingBlock);
        function setGasToBurn(uint256 amount);
    }

    interface Factory {
        function deploy(address owner, bytes32 salt) returns (address wallet);
        function predict(address owner, bytes32 salt) view returns (address);
        function setGasToBurn(uint256 amount);
    }

    /// What an EIP-3009 token hashes.
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}
