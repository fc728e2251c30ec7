//! What a scene needs of the world besides what seeds play: minutes of everything said, frames that are lost or come
//! twice, an orchestrator whose part is played by the scene, and certificates that end.
//!
//! Called by the world at the places where something is said or arrives; decides nothing of its own.

use std::collections::{BTreeMap, BTreeSet};

use outpost_agent_core::event::{Event, NotRecovered, Proof, Speech};
use outpost_orchestrator_core::event::{
    Answer, Call, Denied, Event as CenterEvent, Speech as CenterSpeech,
};
use outpost_orchestrator_core::recover::NotRecovered as Why;
use outpost_proto::ids::{AttemptId, Conn, Nonce};
use outpost_proto::message::{DownMessage, UpMessage};
use outpost_proto::wire::{self, RecoverRequest};

use crate::invariants::{Checked, broken};
use crate::moments::Message;
use crate::network::{Direction, Packet};
use crate::queue::{At, MS};
use crate::renewal::{Letter, Renewing, Way};
use crate::trace::note;
use crate::world::{Happening, World};

/// What is done with a frame that is put on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnItsWay {
    Arrives,
    Lost,
    Twice,
}

/// The next frame of a site with such a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) site: usize,
    pub(crate) message: Message,
    pub(crate) then: OnItsWay,
}

/// What was said in a scene, in order.
#[derive(Debug, Default)]
pub(crate) struct Minutes {
    pub(crate) agents: Vec<(At, usize, Speech)>,
    pub(crate) up: Vec<(At, usize, u64, Vec<UpMessage>)>,
    pub(crate) down: Vec<(At, usize, Conn, Vec<DownMessage>)>,
    pub(crate) center: Vec<(At, CenterSpeech)>,
    /// Keys for which a certificate was asked beside a stream, where the scene answers.
    pub(crate) letters: Vec<(At, u64, u64)>,
    /// Streams that their agents ended, where the scene is the other end.
    pub(crate) ended: Vec<u64>,
    pub(crate) rules: Vec<Rule>,
    /// Sites that were told what no honest orchestrator says.
    pub(crate) forged: BTreeSet<usize>,
    /// For whom the runner of a site looked when its newest process began.
    pub(crate) looked: BTreeMap<usize, Vec<AttemptId>>,
    /// Streams are accepted, and nothing says so.
    pub(crate) mute: bool,
    /// Certificates end.
    pub(crate) certificates_end: bool,
    /// Recoveries are answered by the scene.
    pub(crate) recoveries_wait: bool,
    asked: BTreeSet<u64>,
    answers: BTreeMap<u64, Result<Answer, Denied>>,
}

impl Minutes {
    pub(crate) fn agent_said(&mut self, now: At, site: usize, speech: &Speech) {
        self.agents.push((now, site, speech.clone()));
    }

    pub(crate) fn center_said(&mut self, now: At, speech: &CenterSpeech) {
        self.center.push((now, speech.clone()));
    }

    pub(crate) fn agent_heard(&mut self, now: At, site: usize, conn: Conn, said: &[DownMessage]) {
        self.down.push((now, site, conn, said.to_vec()));
    }

    pub(crate) fn center_heard(&mut self, now: At, site: usize, link: u64, said: &[UpMessage]) {
        self.up.push((now, site, link, said.to_vec()));
    }

    /// What becomes of this frame.
    pub(crate) fn on_its_way(
        &mut self,
        site: usize,
        direction: Direction,
        bytes: &[u8],
    ) -> OnItsWay {
        let meant = |rule: &Rule| {
            let has = match direction {
                Direction::Up => wire::decode_up(bytes)
                    .is_ok_and(|said| said.iter().any(|one| rule.message.is_up(one))),
                Direction::Down => wire::decode_down(bytes)
                    .is_ok_and(|said| said.iter().any(|one| rule.message.is_down(one))),
            };
            rule.site == site && rule.message.direction() == direction && has
        };
        let found = self.rules.iter().position(meant);
        found.map_or(OnItsWay::Arrives, |found| self.rules.remove(found).then)
    }

    /// A question of the scene's own.
    pub(crate) fn asks(&mut self, request: u64) {
        self.asked.insert(request);
    }

    pub(crate) fn waits_for(&self, request: u64) -> bool {
        self.asked.contains(&request)
    }

    pub(crate) fn answered(&mut self, request: u64, answer: Result<Answer, Denied>) {
        self.answers.insert(request, answer);
    }

    pub(crate) fn answer(&mut self, request: u64) -> Option<Result<Answer, Denied>> {
        self.answers.remove(&request)
    }
}

impl World {
    /// Whether this site was told what no honest orchestrator says.
    pub(crate) fn is_forged(&self, site: usize) -> bool {
        let minutes = self.minutes.as_ref();
        self.plan.played || minutes.is_some_and(|minutes| minutes.forged.contains(&site))
    }

    /// Something arrived where the scene plays the orchestrator.
    pub(crate) fn arrived_at_scene(&mut self, id: u64, packet: Packet) -> Checked {
        let (Some(link), Some(minutes)) = (self.network.links.get_mut(&id), &mut self.minutes)
        else {
            return Ok(());
        };
        match packet {
            Packet::Opened => {
                link.center_open = true;
                if !minutes.mute {
                    self.carry(id, Direction::Down, Packet::Opened);
                }
            }
            Packet::Frame(bytes) => {
                let messages = wire::decode_up(&bytes)
                    .map_err(|error| broken("an honest agent's frame is understood", error))?;
                minutes.center_heard(self.now, link.site, id, &messages);
            }
            Packet::Letter(Letter::Renew(next)) => minutes.letters.push((self.now, id, next)),
            Packet::Letter(Letter::Renewed(_) | Letter::NotRenewed) => {}
            Packet::Closed(_) => {
                link.center_open = false;
                minutes.ended.push(id);
            }
        }
        Ok(())
    }

    // --- certificates that end

    /// By the orchestrator's clock.
    pub(crate) fn has_certificate_ended(&self, site: usize) -> bool {
        let minutes = self.minutes.as_ref();
        minutes.is_some_and(|minutes| minutes.certificates_end)
            && self.certificate_ends(site) <= self.database_time(self.now).0
    }

    /// Link makes a key, or takes the one it made for this before, and signs the challenge.
    pub(crate) fn prove(&mut self, index: usize, nonce: Nonce, challenge: Vec<u8>) {
        let drawn = self.dice.next();
        let site = &mut self.sites[index];
        let (process, key) = (site.processes, *site.identity.pending.get_or_insert(drawn));
        note!(self, "s{index} proves its key, {nonce:?}");
        if self
            .minutes
            .as_ref()
            .is_some_and(|minutes| minutes.recoveries_wait)
        {
            return;
        }
        let event = Event::Proof(Proof {
            certificate: self.sites[index].identity.key.to_be_bytes().to_vec(),
            csr: key.to_be_bytes().to_vec(),
            proof: challenge,
        });
        self.heard_later(index, process, event);
    }

    fn heard_later(&mut self, site: usize, process: u64, event: Event) {
        let heard = Happening::Heard {
            site,
            process,
            event,
        };
        self.queue.put(self.now + 2 * MS, heard);
    }

    /// The orchestrator's port: first a challenge, then, with the right answer to it, the core decides.
    pub(crate) fn ask_to_recover(&mut self, index: usize, conn: Conn, request: RecoverRequest) {
        let process = self.sites[index].processes;
        if self
            .minutes
            .as_ref()
            .is_none_or(|minutes| minutes.recoveries_wait)
        {
            return;
        }
        let expected = process.to_be_bytes().to_vec();
        let Some(answer) = request.answer else {
            let challenge = expected;
            return self.heard_later(index, process, Event::Challenged { conn, challenge });
        };
        let key = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).map(u64::from_be_bytes);
        let (Ok(presented), Ok(next)) = (key(&request.certificate), key(&request.csr)) else {
            return;
        };
        let way = Way::Alone(index, process, conn);
        let renewing = Renewing { way, next };
        let proven = answer.proof == answer.challenge && answer.challenge == expected;
        let identity = self.sites[index].identity.clone();
        let Some(number) = self.center.owner_of(&identity.tenant).filter(|_| proven) else {
            return self.recovery_answered(&renewing, None);
        };
        let not_after = self.certificate_ends(index);
        let ended_us = self.database_time(self.now).0.checked_sub(not_after);
        self.center_is_asked_to_renew(number, renewing, |call: Call| CenterEvent::Recover {
            call,
            key_hash: identity.key_hash_of(presented),
            next_key: identity.key_hash_of(next),
            tenant: identity.tenant,
            agent: identity.agent,
            nonce: request.session_nonce,
            ended_ms_ago: ended_us.map(|us| us / MS),
            not_after,
        });
    }

    /// The orchestrator decided, or could not.
    pub(crate) fn recovery_answered(
        &mut self,
        renewing: &Renewing,
        answer: Option<Result<Answer, Denied>>,
    ) {
        let Way::Alone(site, process, conn) = renewing.way else {
            return;
        };
        if !self.sites[site].runs(process) {
            return;
        }
        let why = match answer {
            Some(Ok(_)) => {
                let event = self.stored(site, renewing.next);
                return self.heard_later(site, process, event);
            }
            Some(Err(Denied::NotRecovered {
                why: Why::NotExpired,
                ..
            })) => NotRecovered::Holds,
            Some(Err(Denied::NotRecovered { .. })) => NotRecovered::Refused,
            Some(Err(_)) | None => NotRecovered::Later,
        };
        self.heard_later(site, process, Event::NotRecovered { conn, why });
    }
}
