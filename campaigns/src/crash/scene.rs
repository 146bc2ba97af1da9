//! What has to happen so that a failpoint is reached.

use std::time::Duration;

use pay402_devchain::{Mining, ReorgTransactions};
use pay402_facilitator::failpoint::Failpoint;

use super::shop::Shop;
use super::{BLOCK_TIME, LOAD};
use crate::Result;
use crate::payments::FUNDS;
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

/// The scene of a failpoint. None for what needs a token without EIP-3009 and a sponsor: the tests of errands
/// kill a process there.
pub(crate) const fn of(point: Failpoint) -> Option<Scene> {
    Some(match point {
        Failpoint::AfterErrandBeforePayment => return None,
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
        | Failpoint::AfterReplaceSendBeforeSent => Scene::Dear,
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
    pub(crate) fn is_slow(self) -> bool {
        self == Self::Dear
    }

    /// Whether a journal sees it once.
    pub(crate) fn is_once(self) -> bool {
        self == Self::FirstHook
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
                shop.offer(site, LOAD, random).await?;
                watch(site, REPLACED_AFTER).await;
                site.chain.set_next_base_fee(BASE_FEE);
                site.chain.mine(1);
                watch(site, REPLACED_AFTER).await;
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
