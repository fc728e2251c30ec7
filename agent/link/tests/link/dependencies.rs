//! Link cannot decode what it carries: the crates that could are not among its dependencies.

#[test]
fn neither_prost_nor_the_wires_types_are_dependencies() {
    let manifest = include_str!("../../Cargo.toml");
    let dependencies: Vec<&str> = manifest
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .collect();
    assert!(
        dependencies.contains(&"tonic"),
        "the manifest is not read as it is written"
    );
    for banned in [
        "prost",
        "prost-types",
        "prost-reflect",
        "tonic-prost",
        "outpost-proto",
        "outpost-certs",
        "serde",
    ] {
        assert!(
            !dependencies.contains(&banned),
            "{banned} is a dependency of link"
        );
    }
}
