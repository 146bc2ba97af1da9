//! Those who present payments until they know how each ended, and what they were told.

use std::collections::HashMap;
use std::time::Duration;

use pay402_core::PaymentKey;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::scene::Scene;
use super::{Figures, UNTOLD_MAX};
use crate::Result;
use crate::payments::{ASK_AGAIN, Fate, buy, caller_for};
use crate::rounds::Random;
use crate::site::Site;

/// One payment of so many is presented by two at the same moment.
const COPY_OF: u64 = 4;
/// Longest that whoever presents a payment again waits for one answer.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Shop {
    client: reqwest::Client,
    scene: Scene,
    url: String,
    keys: Vec<PaymentKey>,
    /// What was presented since everybody was asked again.
    fresh: Vec<(PaymentKey, String)>,
    buyers: JoinSet<(PaymentKey, Fate)>,
    told: HashMap<PaymentKey, u64>,
    strange: Vec<String>,
    /// An answer that is nothing strange.
    allowed: Option<&'static str>,
}

impl Shop {
    /// The callers of a scene.
    pub(crate) fn open(site: &Site, scene: Scene) -> Result<Self> {
        Ok(Self {
            client: caller_for(scene.patience())?,
            scene,
            url: site.process.url.clone(),
            keys: Vec::new(),
            fresh: Vec::new(),
            buyers: JoinSet::new(),
            told: HashMap::new(),
            strange: Vec::new(),
            allowed: None,
        })
    }

    /// Has so many new payments presented at once.
    pub(crate) async fn offer(
        &mut self,
        site: &mut Site,
        count: u64,
        random: &mut Random,
    ) -> Result<()> {
        for _ in 0..count {
            let signed = site.payers.sign().await?;
            self.keys.push(signed.key.clone());
            self.fresh.push((signed.key.clone(), signed.body()));
            let copies = if random.below(COPY_OF) == 0 { 2 } else { 1 };
            for _ in 0..copies {
                let (client, urls) = (self.client.clone(), [self.url.clone()]);
                let (key, body, pause) =
                    (signed.key.clone(), signed.body(), self.scene.pause(random));
                self.buyers.spawn(async move { (key, buy(&client, &urls, 0, &body, pause).await) });
            }
        }
        while let Some(done) = self.buyers.try_join_next() {
            self.take(done?);
        }
        Ok(())
    }

    fn take(&mut self, (key, fate): (PaymentKey, Fate)) {
        match fate {
            Fate::Told => *self.told.entry(key).or_default() += 1,
            Fate::Duplicate => {}
            Fate::Other(what) if self.allowed.is_some_and(|allowed| what.contains(allowed)) => {}
            Fate::Other(what) => self.strange.push(format!("{key}: {what}")),
        }
    }

    /// Takes an answer for nothing strange that has this in it.
    pub(crate) fn allow(&mut self, answer: &'static str) {
        self.allowed = Some(answer);
    }

    /// How often the success of each payment was told of which it was.
    pub(crate) const fn told(&self) -> &HashMap<PaymentKey, u64> {
        &self.told
    }

    /// What was answered that no good payment is.
    pub(crate) fn take_strange(&mut self) -> Vec<String> {
        std::mem::take(&mut self.strange)
    }

    /// Every payment that was ever presented.
    pub(crate) fn keys(&self) -> &[PaymentKey] {
        &self.keys
    }

    /// Whether some are still waiting to be told.
    pub(crate) fn are_waiting(&mut self) -> Result<bool> {
        while let Some(done) = self.buyers.try_join_next() {
            self.take(done?);
        }
        Ok(!self.buyers.is_empty())
    }

    /// Waits until everybody knows.
    pub(crate) async fn all_answered(&mut self, until: Instant) -> Result<()> {
        while !self.buyers.is_empty() {
            match tokio::time::timeout_at(until, self.buyers.join_next()).await {
                Ok(Some(done)) => self.take(done?),
                Ok(None) => break,
                Err(_) => {
                    let waiting = self.buyers.len();
                    return Err(format!("{waiting} callers know nothing in time").into());
                }
            }
        }
        Ok(())
    }

    /// Presents everything again that was presented since the last time, as one does who copied it: whoever
    /// was told a success before, nobody is told it now.
    pub(crate) async fn present_again(&mut self) -> Result<()> {
        let client = caller_for(AGAIN_MAX)?;
        for (key, body) in std::mem::take(&mut self.fresh) {
            let fate = buy(&client, std::slice::from_ref(&self.url), 0, &body, ASK_AGAIN).await;
            self.take((key, fate));
        }
        Ok(())
    }

    /// Whether what they were told is what they may be told. The books have been compared.
    pub(crate) fn judge(&mut self, figures: &mut Figures, scene: Scene) -> Result<()> {
        let told = u64::try_from(self.told.len())?;
        figures.untold = figures.settled.saturating_sub(told);
        figures.failed = figures.payments.saturating_sub(figures.settled);
        let strange = std::mem::take(&mut self.strange);
        let mut violations = Vec::new();
        if scene == Scene::LeftOut || scene == Scene::Expired {
            // Who has spent the money has failed, or whose time went by: the books were compared, so that nothing
            // of it moved. Each is presented by two at the most, and once again.
            if u64::try_from(strange.len())? > 3 * figures.payments {
                violations.push("more failures than callers".to_owned());
            }
            if scene == Scene::Expired && figures.settled > 0 {
                violations.push(format!("{} settled after their time", figures.settled));
            }
        } else {
            violations.extend(strange);
            if figures.failed > 0 {
                violations.push(format!("{} were presented and not settled", figures.failed));
            }
        }
        let twice = self.told.values().filter(|times| **times > 1).count();
        if twice > 0 {
            violations.push(format!("{twice} successes were told twice"));
        }
        if told > figures.settled {
            violations.push(format!("{told} successes told of {} settled", figures.settled));
        }
        let kills = figures.struck + figures.killed;
        if scene != Scene::Impatient && figures.untold > kills * UNTOLD_MAX {
            violations.push(format!("{} successes were told to nobody", figures.untold));
        }
        if violations.is_empty() { Ok(()) } else { Err(violations.join("; ").into()) }
    }
}
