//! What a task is handed, and what is left of it.

use std::os::unix::fs::MetadataExt;

use super::*;

fn grant(name: &str, delivery: Delivery) -> Grant {
    Grant {
        name: name.to_owned(),
        variable: format!("V_{}", name.to_uppercase()),
        delivery,
    }
}

fn spec(grants: Vec<Grant>, dir: Option<PathBuf>, values: &[&[u8]]) -> StartSpec {
    let spec = serde_json::json!({
        "attempt": "0".repeat(32), "dir": "/nowhere", "argv": ["/bin/true"], "env": [], "cwd": "/", "grace_ms": 1,
        "lease_until_boot_us": 0, "log_max_bytes": 4096, "log_files": 1, "umask": 63,
        "secrets": { "grants": grants, "dir": dir },
    });
    let mut spec: StartSpec = serde_json::from_value(spec).unwrap();
    if let Some(secrets) = &mut spec.secrets {
        secrets.values = Bundle::seal(values.iter().copied()).unwrap();
    }
    spec
}

fn env(handed: &Handed) -> Vec<String> {
    let text = |text: &CString| text.to_str().unwrap().to_owned();
    handed.env.iter().map(text).collect()
}

#[test]
fn each_secret_is_handed_over_as_its_grant_says() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("attempt");
    let grants = vec![
        grant("a", Delivery::Fd),
        grant("b", Delivery::File),
        grant("c", Delivery::Env),
        grant("d", Delivery::Fd),
    ];
    let spec = spec(
        grants,
        Some(dir.clone()),
        &[b"one", b"two\n", b"three", b""],
    );
    let mut files = Files::default();
    let handed = Handed::make(&spec, &mut files).unwrap();
    let path = dir.join("b");
    let path_is = format!("V_B={}", path.display());
    assert_eq!(env(&handed), ["V_A=3", &path_is, "V_C=three", "V_D=4"]);
    let meta = path.metadata().unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o400);
    assert_eq!(dir.metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
    let mut read = Vec::new();
    let mut first = File::from(handed.fds[0].try_clone().unwrap());
    first.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"one");
    assert!(first.write_all(b"x").is_err(), "it is sealed");
    // Who opens it by its name in `/dev/fd` is who owns it, and nobody else.
    assert_eq!(first.metadata().unwrap().mode() & 0o7777, 0o400);
    assert!(handed.fds.iter().all(|fd| {
        use std::os::fd::AsRawFd;
        fd.as_raw_fd() >= ABOVE
    }));
    drop(files);
    assert!(!dir.exists());
}

#[test]
fn what_fails_leaves_no_files_and_tells_no_value() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("attempt");
    let grants = vec![grant("b", Delivery::File), grant("c", Delivery::Env)];
    let values: [&[u8]; 2] = [b"two", b"thr\0ee"];
    let spec = spec(grants, Some(dir.clone()), &values);
    let mut files = Files::default();
    let error = Handed::make(&spec, &mut files).err().unwrap();
    let told = format!("{error} {error:?}");
    assert!(told.contains("`c`") && !told.contains("thr"), "{told}");
    assert!(dir.join("b").exists());
    drop(files);
    assert!(!dir.exists());
}

#[test]
fn a_start_without_the_values_it_names_is_none() {
    let mut files = Files::default();
    let mut one = spec(vec![grant("a", Delivery::Env)], None, &[]);
    assert!(matches!(
        Handed::make(&one, &mut files),
        Err(SecretError::Missing)
    ));
    join(&mut one, None);
    assert!(matches!(
        Handed::make(&one, &mut files),
        Err(SecretError::Missing)
    ));
    let too_many = (0..=MOST).map(|_| grant("a", Delivery::Env)).collect();
    let too_many = spec(too_many, None, &[b"x".as_slice(); MOST + 1]);
    assert!(matches!(
        Handed::make(&too_many, &mut files),
        Err(SecretError::Missing)
    ));
    // One that says to be longer than any is not read, whoever made it.
    let mut long = spec(vec![grant("a", Delivery::Env)], None, &[b"x"]);
    let mut made = memory_file().unwrap();
    let length = u32::try_from(VALUE_BYTES + 1).unwrap();
    made.write_all(&length.to_be_bytes()).unwrap();
    made.write_all(&vec![b'x'; VALUE_BYTES + 1]).unwrap();
    join(&mut long, Some(made.into()));
    assert!(matches!(
        Handed::make(&long, &mut files),
        Err(SecretError::Missing)
    ));
    assert!(Bundle::seal([vec![0; VALUE_BYTES + 1].as_slice()]).is_err());
    assert!(Bundle::seal([vec![0; VALUE_BYTES].as_slice()]).is_ok());
}

#[test]
fn no_form_of_a_spec_shows_a_value() {
    let spec = spec(vec![grant("a", Delivery::Env)], None, &[b"canary-value"]);
    let shown = format!("{spec:?} {}", serde_json::to_string(&spec).unwrap());
    assert!(
        shown.contains("V_A") && !shown.contains("canary-value"),
        "{shown}"
    );
}
