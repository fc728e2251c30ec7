//! Backups of the orchestrator's database, and what takes their place.

use outpost_orchestrator_core::mirror::Mirror;

use super::Stage;

/// The database as it was once.
#[derive(Debug, Clone)]
pub struct Backup(Mirror);

impl Stage {
    /// The database as it is now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.disk.mirror.clone())
    }

    /// The backup takes the database's place as `restore` does it, and the orchestrator starts on that.
    pub fn restore(&mut self, backup: &Backup) {
        self.restore_down(backup);
        self.orchestrator_comes_up();
    }

    /// The same, and the orchestrator is down still.
    pub fn restore_down(&mut self, backup: &Backup) {
        self.orchestrator_stops();
        let recovery = self.disk.mirror.recovery;
        let now = self.now;
        let mirror = &mut self.disk.mirror;
        *mirror = backup.0.clone();
        mirror.recovery = recovery;
        mirror.recovery.counter += 1;
        mirror.recovery.database = now;
        mirror.restored_at = Some(now);
        for tenant in mirror.tenants.values_mut() {
            tenant.restored(true, now);
        }
    }

    /// The backup is copied to the database's place, and nobody says so.
    pub fn copy_back(&mut self, backup: &Backup) {
        self.orchestrator_stops();
        self.disk.mirror = backup.0.clone();
        self.orchestrator_comes_up();
    }

    /// The orchestrator starts again.
    pub fn orchestrator_comes_up(&mut self) {
        self.orchestrator_starts();
        self.settles();
    }
}
