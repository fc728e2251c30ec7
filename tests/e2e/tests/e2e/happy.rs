//! What works when nothing goes wrong.

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::{Entry, World};
use serde_json::json;

#[test]
fn a_workflow_with_dependencies_runs_on_an_agent_that_dialled_out_and_outputs_stay_at_the_site() {
    let world = World::new();
    let agent = world.agent(
        "site-1",
        &[
            Entry::script("count", "echo secret-of-the-site\necho number=$2 >> \"$OUTPOST_OUT\"")
                .argument("{param.top}")
                .param("top", "kind = \"int\", min = 1, max = 100"),
            Entry::script(
                "join",
                ". \"$OUTPOST_RUN_DIR/out/left.env\"; echo left=$number\n. \"$OUTPOST_RUN_DIR/out/right.env\"; echo right=$number",
            ),
        ],
    );
    let api = world.api();
    let applied = api.apply(
        "name: report\nparams:\n  top: {kind: int, min: 1, max: 50, default: 10}\ntasks:\n  left:\n    entry: count\n    with: {top: \"${params.top}\"}\n  right:\n    entry: count\n    with: {top: 9}\n  both:\n    entry: join\n    needs: [left, right]\n",
    );
    assert_eq!(applied.ok()["result"], "created");
    let run = api.trigger("report", &json!({ "top": 7 }));
    let tree = api.succeeded(&run);
    assert_eq!(tree["agent"], "site-1");

    let both = text(&attempts_of(&tree, "both")[0]["attempt"]);
    let output = agent.output(&both);
    assert!(
        output.contains("left=7") && output.contains("right=9"),
        "{output}"
    );
    let order = world
        .starts()
        .into_iter()
        .map(|(_, task)| task)
        .collect::<Vec<_>>();
    assert_eq!(order.len(), 3, "{order:?}");
    assert_eq!(
        order[2], "both",
        "it started before what it needs was over: {order:?}"
    );
}
