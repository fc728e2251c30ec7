//! A host's certificates: renewed while a stream stands, recovered once they have ended.

use outpost_agent_core::event::{Event as SiteEvent, NotRecovered};
use outpost_driver::Micros;
use outpost_orchestrator_core::event::{Answer, Denied, Event};
use outpost_orchestrator_core::recover::NotRecovered as Refused;
use outpost_proto::ids::Conn;
use outpost_proto::wire::RecoverRequest;

use super::super::{Asker, Stage};

impl Stage {
    pub(super) fn asks_to_renew(&mut self, index: usize, process: u64, conn: Conn, csr: Vec<u8>) {
        let beside = self.stream_of(index, conn).map(Conn);
        let host = &self.hosts[index];
        let (tenant, agent, key_hash) = (host.tenant.clone(), host.agent.clone(), host.key.clone());
        let next_key = String::from_utf8(csr).expect("a key");
        let key = next_key.clone();
        let call = self.call(Asker::Renewal {
            host: index,
            process,
            key,
        });
        self.inbox.push(Event::Renew {
            call,
            tenant,
            agent,
            key_hash,
            next_key,
            beside,
        });
    }

    pub(in crate::stage) fn renewal_ends(
        &mut self,
        index: usize,
        process: u64,
        key: &str,
        done: bool,
    ) {
        let event = if done {
            self.stores(index, key)
        } else {
            SiteEvent::NotRenewed
        };
        self.host_hears(index, process, event);
    }

    fn stores(&mut self, index: usize, key: &str) -> SiteEvent {
        let now = self.now;
        let host = &mut self.hosts[index];
        key.clone_into(&mut host.key);
        host.next_key = None;
        host.not_after = now + host.life_us;
        let until = Micros(host.shows(now).0 + host.life_us);
        SiteEvent::Renewed {
            life_us: host.life_us,
            until,
        }
    }

    pub(super) fn asks_to_recover(
        &mut self,
        index: usize,
        process: u64,
        conn: Conn,
        request: &RecoverRequest,
    ) {
        let host = &self.hosts[index];
        if !host.online || self.core.is_none() {
            let why = NotRecovered::Later;
            return self.host_hears(index, process, SiteEvent::NotRecovered { conn, why });
        }
        if request.answer.is_none() {
            let challenge = vec![7; 32];
            return self.host_hears(index, process, SiteEvent::Challenged { conn, challenge });
        }
        let (tenant, agent, not_after) = (host.tenant.clone(), host.agent.clone(), host.not_after);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a key");
        let (key_hash, next_key) = (text(&request.certificate), text(&request.csr));
        let key = next_key.clone();
        let call = self.call(Asker::Recovery {
            host: index,
            process,
            conn,
            key,
        });
        let ended = self.now.checked_sub(not_after).filter(|ago| *ago > 0);
        self.inbox.push(Event::Recover {
            call,
            tenant,
            agent,
            key_hash,
            next_key,
            nonce: request.session_nonce,
            ended_ms_ago: ended.map(|ago| ago / 1000),
            not_after,
        });
    }

    pub(in crate::stage) fn recovery_ends(
        &mut self,
        index: usize,
        process: u64,
        conn: Conn,
        key: &str,
        answer: Result<Answer, Denied>,
    ) {
        let event = match answer {
            Ok(_) => self.stores(index, key),
            Err(Denied::NotRecovered {
                why: Refused::NotExpired,
                ..
            }) => SiteEvent::NotRecovered {
                conn,
                why: NotRecovered::Holds,
            },
            Err(_) => SiteEvent::NotRecovered {
                conn,
                why: NotRecovered::Refused,
            },
        };
        self.host_hears(index, process, event);
    }
}
