//! What has to happen so that a failpoint is reached.

use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, Transaction as _, TxEip1559};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Address, TxKind};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use pay402::stack::CHAIN_ID;
use pay402_devchain::genesis::{DEV_ACCOUNTS, dev_signer};
use pay402_devchain::{Mining, ReorgTransactions};
use pay402_facilitator::failpoint::Failpoint;

use super::shop::Shop;
use super::{BLOCK_TIME, LOAD};
use crate::Result;
use crate::payments::{ASK_AGAIN, FUNDS};
use crate::replicas::{SIGNERS, network};
use crate::rounds::Random;
use crate::site::Site;

/// Pause between two looks at the process.
const PAUSE: Duration = Duration::from_millis(40);
/// How long a transaction waits before it is replaced, and a little.
const REPLACED_AFTER: Duration = Duration::from_millis(9_500);
/// How much the base fee rises meanwhile, to wei for a unit of gas.
const BASE_FEE: u64 = 50_000_000_000;
/// What it falls to afterwards.
const BASE_FEE_LOW: u64 = 1_000_000_000;
/// How much deeper than two blocks a reorganisation may be, and how old the chain is before.
const DEEP: u64 = 6;
const OLD_ENOUGH: u64 = 20;
/// How far chain time goes on at once so that every payment has expired for good.
const PAST_ALL_ENDS_S: u64 = 300;
/// How long it takes until nonces that nobody holds the bytes for are cancelled, and a little.
const CANCELLED_AFTER: Duration = Duration::from_secs(45);
/// Longest until what is waited for here has come, before it is tried anew.
const COMING_MAX: Duration = Duration::from_secs(15);
/// How deep a block is buried where that is waited for, in blocks.
const BURIED: u64 = 5;

/// See the module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scene {
    /// Several payments at the same moment.
    Burst,
    /// A process that was killed has left something unfinished.
    Leftovers,
    /// Callers who do not wait for the outcome, and come again.
    Impatient,
    /// Time goes by.
    Idle,
    /// Blocks are undone.
    Reorg,
    /// Nothing is mined for want of fees.
    Dear,
    /// Nothing is mined until everything has expired.
    Expired,
    /// The chain loses what had displaced a transaction, and nobody holds the bytes for its nonce.
    Gap,
    /// A payer's money is gone when its pack is mined.
    LeftOut,
    /// Blocks are buried soon.
    Buried,
    /// Events are sent.
    Hook,
    /// The same, on a journal that nobody was at before.
    FirstHook,
    /// The process is asked to stop.
    Drain,
}

/// The scene of a failpoint. None for what needs a sponsor, and accounts or a token without EIP-3009: the tests of
/// errands and of first payments kill a process there.
pub(crate) const fn of(point: Failpoint) -> Option<Scene> {
    Some(match point {
        Failpoint::AfterErrandBeforePayment | Failpoint::AfterTurnBeforeEnter => return None,
        Failpoint::AfterLeaseBeforeTakeUp
        | Failpoint::AfterTakeUpBeforeLaunch
        | Failpoint::AfterTakeUpBeforeCalls => Scene::Leftovers,
        Failpoint::AfterRenewalBeforeHeard => Scene::Idle,
        Failpoint::AfterEnter
        | Failpoint::AfterSignBeforeJournal
        | Failpoint::AfterJournalBeforeSend
        | Failpoint::AfterPackSignBeforeJournal
        | Failpoint::AfterPackJournalBeforeSend
        | Failpoint::AfterPackProofBeforeClose
        | Failpoint::AfterSendBeforeSent
        | Failpoint::AfterPackSendBeforeSent
        | Failpoint::AfterProofBeforeClose
        | Failpoint::AfterCloseBeforeAnswer
        | Failpoint::AfterTellBeforeOthers => Scene::Burst,
        Failpoint::AfterPackCloseBeforeAlone => Scene::LeftOut,
        Failpoint::AfterReplaceBeforeJournal
        | Failpoint::AfterReplaceJournalBeforeSend
        | Failpoint::AfterReplaceSendBeforeSent
        | Failpoint::AfterPackReplaceBeforeJournal
        | Failpoint::AfterPackReplaceJournalBeforeSend
        | Failpoint::AfterPackReplaceSendBeforeSent => Scene::Dear,
        Failpoint::AfterCancelBeforeJournal
        | Failpoint::AfterCancelJournalBeforeSend
        | Failpoint::AfterCancelSendBeforeSent => Scene::Expired,
        Failpoint::AfterGapEnter
        | Failpoint::AfterGapSignBeforeJournal
        | Failpoint::AfterGapJournalBeforeSend
        | Failpoint::AfterGapSendBeforeSent => Scene::Gap,
        Failpoint::AfterLeaveBeforePending
        | Failpoint::AfterSeatBeforeWait
        | Failpoint::AfterCollectBeforeAnswer => Scene::Impatient,
        Failpoint::AfterUndoneBeforeReopen | Failpoint::AfterReopenBeforeResend => Scene::Reorg,
        Failpoint::AfterDeepBeforeBury => Scene::Buried,
        Failpoint::AfterHookBeginsBeforePost => Scene::FirstHook,
        Failpoint::AfterPostBeforeNoted | Failpoint::AfterNotedBeforePost => Scene::Hook,
        Failpoint::AfterStopBeforeRelease | Failpoint::AfterReleaseBeforeEnd => Scene::Drain,
    })
}

impl Scene {
    /// Whether a kill takes many seconds.
    pub(crate) const fn is_slow(self) -> bool {
        matches!(self, Self::Dear | Self::Gap)
    }

    /// Whether a journal sees it once.
    pub(crate) const fn is_once(self) -> bool {
        matches!(self, Self::FirstHook | Self::Expired)
    }

    pub(crate) const fn has_hook(self) -> bool {
        matches!(self, Self::Hook | Self::FirstHook)
    }

    /// Whether a process comes to it several times without being restarted.
    pub(crate) const fn is_passed_often(self) -> bool {
        matches!(self, Self::Burst | Self::Impatient | Self::Hook)
    }

    /// How long callers wait for one answer.
    pub(crate) const fn patience(self) -> Duration {
        match self {
            Self::Impatient => Duration::from_millis(300),
            _ => Duration::from_secs(90),
        }
    }

    /// How long one who left stays away. A payment is looked at in a beat of its own, so that those who came again
    /// in another would always be there, or never, when it settles.
    pub(crate) fn pause(self, random: &mut Random) -> Duration {
        match self {
            Self::Impatient => Duration::from_millis(100 + random.below(500)),
            _ => ASK_AGAIN,
        }
    }

    /// Lines of the configuration.
    pub(crate) fn lines(self) -> String {
        let buried = (self == Self::Buried).then(|| format!("burial_blocks = {BURIED}\n"));
        format!("strikes_max = 1000\n{}", buried.unwrap_or_default())
    }

    /// Does once what makes the process come to the failpoint, sooner or later.
    pub(crate) async fn stir(
        self,
        site: &mut Site,
        shop: &mut Shop,
        random: &mut Random,
    ) -> Result<()> {
        match self {
            Self::Leftovers => tokio::time::sleep(PAUSE).await,
            Self::Burst | Self::Idle | Self::Buried | Self::Hook | Self::FirstHook => {
                if !shop.are_waiting()? {
                    shop.offer(site, LOAD, random).await?;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Self::Impatient => {
                if !shop.are_waiting()? {
                    site.chain.hold_mempool();
                    shop.offer(site, LOAD, random).await?;
                    // They leave, come again, and leave.
                    let waits = 300 + random.below(700);
                    watch(site, Duration::from_millis(waits)).await;
                    site.chain.release_mempool();
                }
                tokio::time::sleep(PAUSE).await;
            }
            Self::Reorg => {
                shop.offer(site, LOAD, random).await?;
                while shop.are_waiting()? && site.process.is_ready().await {
                    tokio::time::sleep(PAUSE).await;
                }
                let keeps = random.below(2) == 0;
                let what = if keeps { ReorgTransactions::Keep } else { ReorgTransactions::Drop };
                // What the payers were given at the beginning stays.
                while site.chain.block_number() < OLD_ENOUGH {
                    tokio::time::sleep(BLOCK_TIME).await;
                }
                site.chain.reorg(2 + random.below(DEEP), what);
                tokio::time::sleep(PAUSE * 40).await;
            }
            Self::Dear => {
                site.until_ready().await?;
                site.chain.set_mining(Mining::Manual);
                site.chain.set_next_base_fee(BASE_FEE_LOW);
                site.chain.mine(1);
                // So many that some come together also where the machine is busy, and share a transaction.
                shop.offer(site, LOAD * 4, random).await?;
                watch(site, REPLACED_AFTER).await;
                site.chain.set_next_base_fee(BASE_FEE);
                site.chain.mine(1);
                watch(site, REPLACED_AFTER).await;
            }
            Self::Expired => {
                site.until_ready().await?;
                site.chain.hold_mempool();
                shop.offer(site, LOAD, random).await?;
                until_all_are_sent(site).await?;
                site.chain.increase_time(PAST_ALL_ENDS_S);
                watch(site, COMING_MAX).await;
            }
            Self::Gap => {
                site.until_ready().await?;
                site.chain.hold_mempool();
                shop.offer(site, LOAD, random).await?;
                if lose_a_nonce(site).await? {
                    // While these wait.
                    shop.offer(site, LOAD, random).await?;
                    watch(site, CANCELLED_AFTER).await;
                }
                site.chain.release_mempool();
            }
            Self::LeftOut => {
                site.until_ready().await?;
                site.chain.hold_mempool();
                shop.offer(site, LOAD, random).await?;
                tokio::time::sleep(BLOCK_TIME * 3).await;
                site.payers.fund_last(&site.chain, 0)?;
                site.chain.release_mempool();
                tokio::time::sleep(BLOCK_TIME * 2).await;
                site.payers.fund_last(&site.chain, FUNDS)?;
                tokio::time::sleep(PAUSE * 5).await;
            }
            Self::Drain => {
                site.until_ready().await?;
                shop.offer(site, LOAD, random).await?;
                tokio::time::sleep(Duration::from_millis(random.below(200))).await;
                site.process.ask_to_stop();
                tokio::time::sleep(PAUSE * 20).await;
            }
        }
        Ok(())
    }

    /// Lets the chain go on as before.
    pub(crate) fn calm(self, site: &Site) {
        if self == Self::Expired && site.chain.block_number().is_multiple_of(2) {
            // A node that has nothing of it takes what cancels it all the same.
            for hash in site.chain.pending_transactions() {
                site.chain.drop_transaction(hash);
            }
        }
        site.chain.release_mempool();
        if self == Self::Dear {
            // What is signed next is signed at low fees again, so that they can rise once more.
            site.chain.set_next_base_fee(BASE_FEE_LOW);
        }
        site.chain.set_mining(Mining::Interval(BLOCK_TIME));
    }
}

/// Waits so long, or until the process cannot be asked any more.
async fn watch(site: &Site, lasts: Duration) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < lasts && (begun.elapsed() < PAUSE * 5 || site.process.is_ready().await)
    {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until every payment that was offered is on its way, or the process cannot be asked any more.
async fn until_all_are_sent(site: &Site) -> Result<()> {
    let journal = site.shelf.open().await?;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < COMING_MAX {
        let backlog = journal.backlog(&network()).await?;
        if backlog.sent >= LOAD && backlog.due + backlog.signed == 0 {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err("not all that was offered was sent".into())
}

/// Has another transaction of a signer take the place of one that carries payments, and the chain lose that one
/// when those are signed anew. `false` where nothing was to be displaced.
async fn lose_a_nonce(site: &Site) -> Result<bool> {
    until(site, || !site.chain.pending_transactions().is_empty()).await;
    let before = site.chain.block_number();
    if !displace(site).await? {
        return Ok(false);
    }
    site.chain.release_mempool();
    tokio::time::sleep(BLOCK_TIME * 2).await;
    site.chain.hold_mempool();
    // Looks enough to be certain, and the new transaction.
    if !until(site, || !site.chain.pending_transactions().is_empty()).await {
        return Ok(false);
    }
    let depth = site.chain.block_number().saturating_sub(before);
    site.chain.reorg(depth, ReorgTransactions::Drop);
    Ok(true)
}

/// Waits until it is so. `false` when it does not come to be.
async fn until(site: &Site, mut is_so: impl FnMut() -> bool) -> bool {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < COMING_MAX && site.process.is_ready().await {
        if is_so() {
            return true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    false
}

/// Sends a transaction of nothing with the nonce of one that waits and can be mined next.
async fn displace(site: &Site) -> Result<bool> {
    let provider = site.chain.provider();
    for hash in site.chain.pending_transactions() {
        let Some(found) = provider.get_transaction_by_hash(hash).await? else { continue };
        let (from, nonce) = (found.inner.signer(), found.inner.nonce());
        if provider.get_transaction_count(from).await? != nonce {
            continue;
        }
        let Some(index) = SIGNERS.into_iter().find(|index| DEV_ACCOUNTS[*index] == from) else {
            continue;
        };
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: found.inner.max_fee_per_gas() * 2,
            max_priority_fee_per_gas: found.inner.max_fee_per_gas() * 2,
            to: TxKind::Call(Address::ZERO),
            ..TxEip1559::default()
        };
        let signature = dev_signer(index).sign_hash_sync(&transaction.signature_hash())?;
        let raw = transaction.into_signed(signature).encoded_2718();
        return Ok(provider.send_raw_transaction(&raw).await.is_ok());
    }
    Ok(false)
}
