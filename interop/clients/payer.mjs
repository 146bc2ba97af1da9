// Who pays in the TypeScript v2 clients. clients/httpx_v2.py knows the same accounts.
import { ExactEvmScheme, UptoEvmScheme } from "@x402/evm";
import { privateKeyToAccount } from "viem/accounts";
import { serializeErc6492Signature } from "viem/utils";

/** Stock settings: schemes `exact` and `upto` on every EVM network. With EVM_RPC_URL they look whether Permit2 needs an allowance. */
export function schemesFrom(settings) {
  const options = settings.EVM_RPC_URL ? { rpcUrl: settings.EVM_RPC_URL } : undefined;
  const payer = payerFrom(settings);
  return [ExactEvmScheme, UptoEvmScheme].map((Scheme) => ({ network: "eip155:*", client: new Scheme(payer, options) }));
}

/** The key's own account; with WALLET a contract account that the key owns, and with WALLET_FACTORY one that is not deployed yet. */
function payerFrom({ EVM_PRIVATE_KEY: key, WALLET: address, WALLET_FACTORY: factory, WALLET_FACTORY_DATA: data }) {
  const owner = privateKeyToAccount(key);
  if (!address) return owner;
  const signTypedData = async (message) => {
    const signature = await owner.signTypedData(message);
    return factory ? serializeErc6492Signature({ address: factory, data, signature }) : signature;
  };
  return { address, signTypedData };
}
