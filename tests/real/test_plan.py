"""Plans with a real solver: what a change of the policies does to any request, with a request that shows it."""
import json
import shutil
import subprocess

import test_prove

MARKETING = ("20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2")
RESEARCH = ("20-inference.cedar", "when { context.data.level <= 2 }", "when { context.data.level <= 1 }")
PROMPTS = ["User embed Model", "User infer Model", "Workload embed Model", "Workload infer Model"]

SCAN = "  action scan in [local] appliesTo { principal: [User], resource: [Dataset], context: Context };\n"


def test_the_same_written_otherwise_is_equivalent(t):
    world = World(t)
    world.edit("20-inference.cedar", "context.data.level <= 1", "context.data.level < 2")
    world.edit("20-inference.cedar", "when { context.data.level <= 2 }", "when { !(context.data.level > 2) }")
    code, text = world.plan()
    assert code == 0 and text.endswith("Nothing loosens.\n"), text
    assert text.count("equivalent") == 14 and "policy  research-models: changed" in text, text


def test_what_allows_less_is_stricter(t):
    world = World(t)
    world.edit(*RESEARCH)
    code, plan = world.json()
    assert code == 0 and plan["clear"], plan
    assert world.kinds(plan, "stricter") == PROMPTS and len(world.kinds(plan, "equivalent")) == 10, plan
    for kind in world.all(plan, "stricter"):
        found = kind["stricter"]
        assert found["level"] == "confidential" and found["answer"] == "allowed by research-models before, denied now", found
        assert 'Team "research"' in found["who"] and "looser" not in kind, found


def test_what_allows_more_is_looser(t):
    world = World(t)
    world.edit(*MARKETING)
    code, text = world.plan()
    assert code == 1 and "Something loosens" in text and "✗ looser for User infer Model; one request:" in text, text
    code, plan = world.json()
    assert code == 1 and plan["verdict"]["loosens"] and world.kinds(plan, "looser") == PROMPTS, plan
    found = world.all(plan, "looser")[1]["looser"]
    assert found["level"] == "confidential" and found["answer"] == "denied before, allowed by marketing-models now", found
    assert found["request"]["context"]["data"]["level"] == 2 and found["entities"], found
    # The same request in the words of `explain`, which asks the engine over the real entities.
    facts = ["action=infer", "team=marketing", "model=eu/tide-small", "level=confidential", "residency=EU"]
    assert [world.tidegate("explain", "--policies", folder, *facts)[0] for folder in ("old", "policies")] == [1, 0]


def test_from_sealed_to_plain_is_looser(t):
    world = World(t)
    world.edit("10-safety.cedar", "context.protection.sealed &&", "")
    world.edit("20-inference.cedar", "context.protection.sealed &&", "")
    code, plan = world.json()
    found = {kind["environment"]: kind["looser"] for kind in world.all(plan, "looser")}
    assert code == 1 and {"User infer Model", "Workload infer Model"} <= set(found), plan
    shown = found["User infer Model"]
    assert shown["protection"] in ("none", "masked") and shown["answer"].endswith("allowed by clinical-restricted-sealed now"), shown
    # What only the rule kept sealed: the owners' own restricted data, on its way to a peer.
    shown = found["User read Dataset"]
    assert shown["level"] == "restricted" and shown["protection"] in ("none", "masked"), shown
    assert "opens sealed bodies" in shown["destination"], shown
    assert shown["answer"] == "denied by restricted-only-sealed before, allowed by owners-keep-their-data now", shown


def test_more_here_and_less_there_is_both(t):
    world = World(t)
    world.edit(*MARKETING)
    world.edit(*RESEARCH)
    code, text = world.plan("--output", "markdown")
    assert code == 1 and text.startswith("## ⚠️ Policy plan\n\n**Something loosens"), text
    assert text.count("looser and stricter |") == 4 and text.count("<details><summary>looser for ") == 4, text
    assert text.count("</details>") == 8, text


def test_a_rule_that_goes_is_looser_and_its_request_shows_it(t):
    for rule, shows in {
        "residency": lambda found: "residency" in found["answer"],
        "agents-never-delete": lambda found: found["what"].startswith("delete ") and "agent" in found["also"],
    }.items():
        world = World(t)
        world.prove.without(rule)
        shutil.rmtree(world.prove.policies / "tests")
        code, plan = world.json()
        looser = world.all(plan, "looser")
        assert code == 1 and looser and all(shows(kind["looser"]) for kind in looser), plan
        assert not world.kinds(plan, "stricter") and not world.kinds(plan, "both"), plan


def test_what_is_not_known_is_not_taken_for_nothing(t):
    world = World(t)
    world.edit(*RESEARCH)
    code, text = world.plan("--timeout", "1ms")
    assert code == 1 and "Not known whether anything loosens" in text and "no answer within 1 ms" in text, text
    code, text = world.plan(env={"CVC5": str(t.folder / "nowhere")})
    assert code == 1 and "NOT COMPARED: cannot run the solver" in text and "Not known whether anything loosens" in text, text
    # An error denies everything, which a solver does not see: without the policy that errs, more is allowed.
    world = World(t)
    (world.folder / "old/50-more.cedar").write_text(
        '@id("later") forbid (principal, action == Tidegate::Action::"infer", resource)'
        ' when { context.now.offset(duration("9223372036854775807ms")) < context.now };\n')
    code, plan = world.json()
    unknown = world.all(plan, "unknown")
    assert code == 1 and [kind["environment"] for kind in unknown] == ["User infer Model", "Workload infer Model"], plan
    assert all("policy `later` can have an error, which denies everything" in kind["why"] for kind in unknown), plan


def test_facts_and_types_that_change_are_said(t):
    world = World(t)
    world.edit("entities.json", '{"peer": true}', '{"peer": false}')
    code, text = world.plan()
    assert code == 1 and "entity  Cluster haven: changed" in text and "Not known whether anything loosens: entities change" in text, text
    # An action that nobody knew before: whatever is allowed of it is new.
    world = World(t)
    world.schema("policies", SCAN)
    code, plan = world.json()
    assert code == 0 and plan["changes"]["schema"] and len(world.kinds(plan, "equivalent")) == 15, plan
    (world.prove.policies / "50-scan.cedar").write_text(
        '@id("scan") @owner("ops") @reason("ops may scan") permit (principal in Tidegate::Team::"ops",'
        ' action == Tidegate::Action::"scan", resource);\n')
    code, plan = world.json()
    assert code == 1 and world.kinds(plan, "looser") == ["User scan Dataset"], plan
    assert world.all(plan, "looser")[0]["looser"]["answer"] == "denied before, allowed by scan now", plan
    # Moved to another group: its policies mean other things.
    world.schema("old", SCAN.replace("local", "send"))
    code, text = world.plan()
    assert code == 1 and "15 kinds of request could not be compared" in text and "puts actions into other groups" in text, text
    # Gone: nothing of it is allowed any more.
    world = World(t)
    world.schema("old", SCAN)
    code, plan = world.json()
    assert code == 0 and world.kinds(plan, "stricter") == ["User scan Dataset"], plan
    assert len(world.kinds(plan, "equivalent")) == 14, plan


class World:
    """The shipped policies twice, as `old` and as `policies`, and a program that was built to use a solver."""

    def __init__(self, t):
        self.prove = test_prove.World(t)
        self.folder = t.folder
        shutil.rmtree(t.folder / "old", ignore_errors=True)
        shutil.copytree(self.prove.policies, t.folder / "old")
        # They say what was wanted before; whether they fail is not what is asked here.
        shutil.rmtree(self.prove.policies / "tests")

    def edit(self, *change):
        self.prove.edit(*change)

    def schema(self, folder, more):
        path, before = self.folder / folder / "tidegate.cedarschema", "  // A request to a plain HTTP service.\n"
        text = (test_prove.ROOT / "policies/tidegate.cedarschema").read_text()
        assert before in text
        path.write_text(text.replace(before, more + before))

    def tidegate(self, *arguments, env=None):
        done = subprocess.run([test_prove.World.program, "policy", *arguments], cwd=self.folder,
                              env={**self.prove.env, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def plan(self, *arguments, env=None):
        return self.tidegate("plan", "old", "policies", *arguments, env=env)

    def json(self):
        code, text = self.plan("--output", "json")
        return code, json.loads(text)

    def all(self, plan, result):
        return [kind for kind in plan["comparison"]["kinds"] if kind["result"] == result]

    def kinds(self, plan, result):
        return [kind["environment"] for kind in self.all(plan, result)]
