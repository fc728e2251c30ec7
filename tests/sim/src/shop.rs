//! The catalogue that every simulated site has, and what its entries do when they run.

use std::sync::Arc;

use outpost_agent_core::event::{Catalog, Rules, Terms};
use outpost_proto::ids::CatalogueVersion;
use outpost_proto::message::{Assign, Catalogue, CatalogueEntry, OnDisconnect, ParamValue};
use outpost_proto::name::{EntryHash, EntryName};
use outpost_proto::outcome::Refusal;

use crate::scene::Sold;

/// One entry: what the site says of it, and how its tasks behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) retry_safe: bool,
    pub(crate) stop_after_s: Option<u32>,
    pub(crate) max_parallel: Option<u16>,
    pub(crate) timeout_ms: u64,
    pub(crate) grace_s: u16,
    /// Shortest and longest run.
    pub(crate) runs_ms: (u64, u64),
    /// Of a hundred runs.
    pub(crate) fails: u64,
    /// Of a hundred runs: these take as long as [`LINGERS_MS`] says.
    pub(crate) lingers: u64,
    /// Takes a whole number `n` of at most [`MOST`] and nothing else.
    pub(crate) picky: bool,
}

/// The greatest `n` that a picky entry accepts; workflows allow more.
pub(crate) const MOST: i64 = 7;

/// What is over within moments as a rule takes this long now and then.
pub(crate) const LINGERS_MS: (u64, u64) = (300, 30_000);

const PLAIN: Entry = Entry {
    name: "load",
    retry_safe: true,
    stop_after_s: None,
    max_parallel: None,
    timeout_ms: 600_000,
    grace_s: 5,
    runs_ms: (50, 20_000),
    fails: 15,
    lingers: 0,
    picky: false,
};

const BRIEF: Entry = Entry {
    name: "blink",
    runs_ms: (1, 40),
    fails: 8,
    lingers: 12,
    ..PLAIN
};

/// Entries whose tasks are over within moments: whoever comes next waits at their keepers. The last of [`ENTRIES`].
pub(crate) const BRIEF_ENTRIES: [Entry; 2] = [
    BRIEF,
    Entry {
        name: "flash",
        retry_safe: false,
        ..BRIEF
    },
];

/// Everything a site lets run.
pub(crate) const ENTRIES: [Entry; 10] = [
    PLAIN,
    Entry {
        name: "scan",
        runs_ms: (5_000, 240_000),
        fails: 5,
        ..PLAIN
    },
    Entry {
        name: "pay",
        retry_safe: false,
        ..PLAIN
    },
    Entry {
        name: "settle",
        retry_safe: false,
        runs_ms: (5_000, 240_000),
        fails: 5,
        ..PLAIN
    },
    Entry {
        name: "guard",
        stop_after_s: Some(45),
        runs_ms: (5_000, 240_000),
        ..PLAIN
    },
    Entry {
        name: "narrow",
        max_parallel: Some(1),
        ..PLAIN
    },
    Entry {
        name: "hang",
        timeout_ms: 20_000,
        runs_ms: (1_000, 60_000),
        ..PLAIN
    },
    Entry {
        name: "picky",
        picky: true,
        retry_safe: false,
        runs_ms: (50, 5_000),
        ..PLAIN
    },
    BRIEF_ENTRIES[0],
    BRIEF_ENTRIES[1],
];

const MOMENT: Entry = Entry {
    name: "moment",
    runs_ms: (10, 10),
    fails: 0,
    ..PLAIN
};

const HOUR: Entry = Entry {
    name: "hour",
    timeout_ms: 7_200_000,
    runs_ms: (3_600_000, 3_600_000),
    ..MOMENT
};

/// What the sites of scenes can offer besides: each takes as long, and ends, as it says.
pub(crate) const GOODS: [Entry; 9] = [
    MOMENT,
    HOUR,
    Entry {
        name: "second",
        runs_ms: (1_000, 1_000),
        ..MOMENT
    },
    Entry {
        name: "minute",
        runs_ms: (60_000, 60_000),
        ..MOMENT
    },
    Entry {
        name: "failure",
        fails: 100,
        ..MOMENT
    },
    Entry {
        name: "payment",
        retry_safe: false,
        ..HOUR
    },
    Entry {
        name: "watched",
        stop_after_s: Some(45),
        ..HOUR
    },
    Entry {
        name: "stubborn",
        grace_s: 30,
        ..HOUR
    },
    Entry {
        name: "choosy",
        picky: true,
        ..MOMENT
    },
];

/// The entry of this name.
pub(crate) fn entry(name: &EntryName) -> Option<&'static Entry> {
    let mut all = ENTRIES.iter().chain(&GOODS);
    all.find(|entry| entry.name == name.as_str())
}

impl Entry {
    fn on_disconnect(&self) -> OnDisconnect {
        self.stop_after_s
            .map_or(OnDisconnect::Continue, OnDisconnect::StopAfter)
    }
}

/// The catalogue of one site at one moment.
#[derive(Debug)]
struct Shop {
    version: u32,
    spiffe_id: String,
    /// `None`: all of [`ENTRIES`].
    sells: Option<Vec<Sold>>,
}

/// The rules of a site; every version has the same entries, unless a scene says otherwise.
pub(crate) fn rules(version: u32, spiffe_id: &str, sells: Option<&[Sold]>) -> Rules {
    Arc::new(Shop {
        version,
        spiffe_id: spiffe_id.to_owned(),
        sells: sells.map(<[Sold]>::to_vec),
    })
}

impl Shop {
    fn entries(&self) -> Vec<&'static Entry> {
        match &self.sells {
            None => ENTRIES.iter().collect(),
            Some(sells) => {
                let named = |sold: &Sold| entry(&sold.name.parse().ok()?);
                sells.iter().filter_map(named).collect()
            }
        }
    }

    /// The limits under which it has this entry; `None` if it has it not.
    fn sold(&self, entry: &Entry) -> Option<Sold> {
        match &self.sells {
            None => Some(Sold {
                name: entry.name,
                max_parallel: entry.max_parallel,
                max_per_hour: None,
            }),
            Some(sells) => sells.iter().find(|sold| sold.name == entry.name).copied(),
        }
    }
}

impl Catalog for Shop {
    fn announced(&self) -> Catalogue {
        let announce = |entry: &Entry| {
            let name: EntryName = entry.name.parse().ok()?;
            Some(CatalogueEntry {
                hash: EntryHash::new(&self.spiffe_id, &name),
                retry_safe: entry.retry_safe,
                on_disconnect: entry.on_disconnect(),
                grace_s: entry.grace_s,
            })
        };
        let mut entries: Vec<_> = self.entries().into_iter().filter_map(announce).collect();
        entries.sort_by_key(|entry| entry.hash);
        Catalogue {
            version: CatalogueVersion(self.version),
            entries,
        }
    }

    fn judge(&self, assign: &Assign) -> Result<Terms, (Refusal, String)> {
        let known = entry(&assign.entry).and_then(|entry| Some((entry, self.sold(entry)?)));
        let (entry, sold) =
            known.ok_or_else(|| (Refusal::UnknownEntry, "there is no such entry".to_owned()))?;
        let fits = |(name, value): &(_, ParamValue)| match value {
            ParamValue::Integer(number) => {
                outpost_proto::name::ParamName::as_str(name) == "n" && *number <= MOST
            }
            ParamValue::Flag(_) | ParamValue::Text(_) => false,
        };
        if entry.picky && !(assign.parameters.len() == 1 && assign.parameters.iter().all(fits)) {
            return Err((Refusal::BadParameters, "`n` is too great".to_owned()));
        }
        Ok(Terms {
            on_disconnect: entry.on_disconnect(),
            max_parallel: sold.max_parallel,
            max_per_hour: sold.max_per_hour,
        })
    }
}
