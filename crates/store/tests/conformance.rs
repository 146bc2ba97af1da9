//! The conformance suites of the ports, on files and in memory.

mod on_a_file {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A place for a new file, in the folder that cargo keeps for these tests.
    fn fresh() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.join(format!("conformance-{}-{number}", std::process::id()));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("an earlier run left it");
        }
        folder.join("store")
    }

    mod journal {
        pay402_core::journal_conformance!(
            || pay402_store::SqliteJournal::open(super::fresh()).unwrap()
        );
    }

    mod history {
        pay402_core::history_conformance!(
            || pay402_store::SqliteJournal::open(super::fresh()).unwrap()
        );
    }

    mod books {
        pay402_core::books_conformance!(
            || pay402_store::SqliteJournal::open(super::fresh()).unwrap()
        );
    }

    mod watch {
        pay402_core::watch_conformance!(
            || pay402_store::SqliteJournal::open(super::fresh()).unwrap()
        );
    }

    mod forget {
        pay402_core::forget_conformance!(
            || pay402_store::SqliteJournal::open(super::fresh()).unwrap()
        );
    }

    mod grants {
        pay402_core::grants_conformance!(
            || pay402_store::SqliteGrants::open(super::fresh()).unwrap()
        );
    }

    mod ledger {
        pay402_core::ledger_conformance!(
            || pay402_store::SqliteLedger::open(super::fresh()).unwrap()
        );
    }
}

mod in_memory {
    mod journal {
        pay402_core::journal_conformance!(|| pay402_store::SqliteJournal::open_in_memory().unwrap());
    }

    mod history {
        pay402_core::history_conformance!(|| pay402_store::SqliteJournal::open_in_memory().unwrap());
    }

    mod books {
        pay402_core::books_conformance!(|| pay402_store::SqliteJournal::open_in_memory().unwrap());
    }

    mod watch {
        pay402_core::watch_conformance!(|| pay402_store::SqliteJournal::open_in_memory().unwrap());
    }

    mod grants {
        pay402_core::grants_conformance!(|| pay402_store::SqliteGrants::open_in_memory().unwrap());
    }

    mod ledger {
        pay402_core::ledger_conformance!(|| pay402_store::SqliteLedger::open_in_memory().unwrap());
    }
}
