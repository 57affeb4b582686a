import copy
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from charts import render, values_named

from fedrelease import __version__
from fedrelease.experiment_file import load_experiment
from fedrelease.server.deployment.folder import Settings

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "fedrelease"
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").iterdir())}
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS = {field.name: field.default for field in fields(Settings)}


def values(**changes: Any) -> dict[str, Any]:
    """The values with a site too; ``server__port=1`` changes one of them."""
    made = copy.deepcopy(VALUES)
    given = {
        "site__enabled": True,
        "site__invitationSecret": "north",
        "site__data": {**made["site"]["data"], "claim": "rows"},
    }
    for name, value in {**given, **changes}.items():
        place, key = made, name.split("__")
        for part in key[:-1]:
            place = place[part]
        place[key[-1]] = value
    return made


def objects(**changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Everything that the chart makes, by kind and name."""
    chosen = values(**changes)
    documents = [
        document
        for name, text in TEMPLATES.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(render(text, values=chosen))
        if document
    ]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def container(kind: str, **changes: Any) -> dict[str, Any]:
    found = objects(**changes)["StatefulSet", f"trial-{kind}"]["spec"]["template"]["spec"]["containers"]
    assert len(found) == 1
    return dict(found[0])


def environment(kind: str, **changes: Any) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(kind, **changes)["env"]}


def test_a_server_and_a_site_come_to_these_objects_and_no_others() -> None:
    assert set(objects()) == {
        ("ConfigMap", "trial-server"),
        ("Service", "trial-server"),
        ("StatefulSet", "trial-server"),
        ("NetworkPolicy", "trial-server"),
        ("StatefulSet", "trial-site"),
        ("NetworkPolicy", "trial-site"),
    }


def test_each_side_is_installed_alone() -> None:
    assert {name for _, name in objects(site__enabled=False)} == {"trial-server"}
    assert {name for _, name in objects(server__enabled=False)} == {"trial-site"}


def test_the_ports_are_those_of_a_new_server_at_the_pod_the_service_and_the_policy() -> None:
    expected = [int(str(DEFAULTS[key]).rpartition(":")[2]) for key in ("listen", "releases")]
    made = objects()
    assert [one["containerPort"] for one in container("server")["ports"]] == expected
    assert [one["port"] for one in made["Service", "trial-server"]["spec"]["ports"]] == expected
    (rule,) = made["NetworkPolicy", "trial-server"]["spec"]["ingress"]
    assert [one["port"] for one in rule["ports"]] == expected
    assert set(expected) <= {one["port"] for one in made["NetworkPolicy", "trial-site"]["spec"]["egress"][0]["ports"]}


def test_the_service_finds_the_pods_of_the_server_and_its_ports_by_their_names() -> None:
    made = objects()
    pod = made["StatefulSet", "trial-server"]["spec"]["template"]["metadata"]["labels"]
    assert made["Service", "trial-server"]["spec"]["selector"] == pod
    named = {one["name"] for one in container("server")["ports"]}
    assert {one["targetPort"] for one in made["Service", "trial-server"]["spec"]["ports"]} == named


@pytest.mark.parametrize("kind", ["server", "site"])
def test_selectors_and_policies_point_at_the_pods_of_their_own_side(kind: str) -> None:
    made = objects()
    pod = made["StatefulSet", f"trial-{kind}"]["spec"]["template"]["metadata"]["labels"]
    assert made["StatefulSet", f"trial-{kind}"]["spec"]["selector"]["matchLabels"] == pod
    assert made["NetworkPolicy", f"trial-{kind}"]["spec"]["podSelector"]["matchLabels"] == pod


def test_nobody_may_connect_to_a_site() -> None:
    spec = objects()["NetworkPolicy", "trial-site"]["spec"]
    assert (spec["ingress"], spec["policyTypes"]) == ([], ["Ingress", "Egress"])


def test_who_may_reach_the_server_can_be_said_as_blocks_of_addresses() -> None:
    assert "from" not in objects()["NetworkPolicy", "trial-server"]["spec"]["ingress"][0]
    chosen = objects(server__allowFrom=["192.0.2.0/24", "2001:db8::/32"])["NetworkPolicy", "trial-server"]
    blocks = [one["ipBlock"]["cidr"] for one in chosen["spec"]["ingress"][0]["from"]]
    assert blocks == ["192.0.2.0/24", "2001:db8::/32"]


def test_a_server_that_fetches_nothing_may_connect_to_nobody() -> None:
    assert objects(server__fetch=False)["NetworkPolicy", "trial-server"]["spec"]["egress"] == []


@pytest.mark.parametrize("kind", ["server", "site"])
def test_no_pod_has_rights_that_it_does_not_need(kind: str) -> None:
    pod = objects()["StatefulSet", f"trial-{kind}"]["spec"]["template"]["spec"]
    own = pod["containers"][0]["securityContext"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
    assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
    assert own["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("kind", ["server", "site"])
def test_every_mount_has_a_volume_and_what_is_kept_has_a_claim(kind: str) -> None:
    spec = objects()["StatefulSet", f"trial-{kind}"]["spec"]
    claims = {one["metadata"]["name"] for one in spec["volumeClaimTemplates"]}
    volumes = {one["name"] for one in spec["template"]["spec"]["volumes"]}
    mounts = {one["name"]: one["mountPath"] for one in spec["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert set(mounts) == claims | volumes
    assert [mounts[name] for name in claims] == ["/var/lib/fedrelease"]


def test_the_config_map_holds_the_experiment_as_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    data = objects()["ConfigMap", "trial-server"]["data"]
    assert list(data) == ["experiment.toml"]
    file = tmp_path / "experiment.toml"
    file.write_text(data["experiment.toml"])
    assert load_experiment(file, []).phases[0].rounds == 5
    assert data["experiment.toml"].strip() == VALUES["server"]["experiment"].strip()


def test_no_secret_is_in_a_config_map_an_environment_or_a_value() -> None:
    told = re.compile(r"token|password|secret|PRIVATE KEY|\.key", re.IGNORECASE)
    public = [objects()["ConfigMap", "trial-server"]["data"], environment("server"), environment("site")]
    assert told.findall(json.dumps(public)) == []
    assert [name for name in values_named("".join(TEMPLATES.values())) if told.search(name)] == [
        "site.invitationSecret"
    ]


def test_the_invitation_comes_from_a_secret_that_may_be_deleted_when_it_was_read() -> None:
    volumes = objects()["StatefulSet", "trial-site"]["spec"]["template"]["spec"]["volumes"]
    (secret,) = (one["secret"] for one in volumes if "secret" in one)
    assert secret == {"secretName": "north", "defaultMode": 0o400, "optional": True}
    assert environment("site")["FEDRELEASE_INVITATION"] == "/invitation/invitation"


def test_rows_are_mounted_to_be_read_only() -> None:
    spec = objects()["StatefulSet", "trial-site"]["spec"]["template"]["spec"]
    (rows,) = (one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "rows")
    assert rows["readOnly"] is True
    assert environment("site")["FEDRELEASE_DATA"] == f"{rows['mountPath']}/rows.csv"


def test_several_addresses_become_words_of_one_variable() -> None:
    chosen = environment("server", server__addresses=["fed.example.org", "10.0.0.4"])
    assert chosen["FEDRELEASE_ADDRESSES"].split() == ["fed.example.org", "10.0.0.4"]


@pytest.mark.parametrize("kind", ["server", "site"])
def test_every_variable_that_a_pod_sets_is_read_by_its_entry_point(kind: str) -> None:
    script = (CHART.parents[1] / "docker" / f"{kind}-entry.sh").read_text(encoding="utf-8")
    assert [name for name in environment(kind) if f"${{{name}" not in script] == []


def test_a_class_of_storage_is_named_only_where_one_was_chosen() -> None:
    def claim(**changes: Any) -> dict[str, Any]:
        return dict(objects(**changes)["StatefulSet", "trial-server"]["spec"]["volumeClaimTemplates"][0]["spec"])

    assert "storageClassName" not in claim()
    assert claim(server__storage={"size": "1Gi", "className": "fast"})["storageClassName"] == "fast"


def leaves(found: dict[str, Any], above: str = "") -> set[str]:
    """Dotted names of all values; what a template takes as a whole ends there."""
    names = set()
    for key, value in found.items():
        whole = isinstance(value, dict) and key != "resources"
        names |= leaves(value, f"{above}{key}.") if whole else {f"{above}{key}"}
    return names


def test_templates_name_exactly_the_values_that_there_are() -> None:
    assert values_named("".join(TEMPLATES.values())) == leaves(VALUES)


def properties(schema: dict[str, Any], above: str = "") -> set[str]:
    """Dotted names of everything that the schema allows."""
    names = set()
    for key, one in schema["properties"].items():
        found = SCHEMA["definitions"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one
        names |= properties(found, f"{above}{key}.") if "properties" in found else {f"{above}{key}"}
    return names


def test_the_schema_knows_exactly_the_values_that_there_are() -> None:
    assert properties(SCHEMA) - {"global"} == leaves(VALUES)


def test_the_schema_accepts_the_values_and_those_of_a_site() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA, cls=jsonschema.Draft7Validator)
    jsonschema.validate(values(), SCHEMA, cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    "wrong",
    [
        {"server__port": 443},
        {"server__port": "9443"},
        {"server__addresses": []},
        {"server__addresses": ["a b"]},
        {"server__image": "fedrelease-server:latest"},
        {"server__image": "fedrelease-server"},
        {"server__allowFrom": ["everybody"]},
        {"server__storage": {"size": "much", "className": ""}},
        {"server__prot": 9443},
        {"site__invitationSecret": ""},
        {"site__data": {"claim": "", "file": "rows.csv"}},
        {"site__data": {"claim": "rows", "file": "../etc/passwd"}},
    ],
)
def test_the_schema_refuses_what_could_not_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values(**wrong), SCHEMA, cls=jsonschema.Draft7Validator)


def test_the_patterns_of_the_schema_are_those_that_helms_own_language_reads_too() -> None:
    """Go's regular expressions look neither ahead nor back."""
    text = (CHART / "values.schema.json").read_text(encoding="utf-8")
    assert re.findall(r"\(\?[=!<]|\\\\[1-9]", text) == []


@pytest.mark.parametrize("image", ["a:1", "registry.example.org:5000/team/a:0.1.0", f"a@sha256:{'0' * 64}"])
def test_the_schema_accepts_images_by_tag_and_by_digest(image: str) -> None:
    jsonschema.validate(values(server__image=image), SCHEMA, cls=jsonschema.Draft7Validator)


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["name"], chart["appVersion"]) == ("fedrelease", __version__)
    assert VALUES["server"]["image"].endswith(f":{__version__}")


def test_the_notes_say_how_to_invite_a_site_to_this_server() -> None:
    notes = render(TEMPLATES["NOTES.txt"], values=values())
    assert "trial-server-0 -- fedrelease server invite" in notes
    assert "reach it at fed.example.org , port 9443" in notes


@pytest.mark.parametrize(
    "wrong", ["{{ lookup }}", "{{ .Values.none }}", "{{ if .Values.a }}", "{{ end }}", "{{ .Values.a | upper }}"]
)
def test_the_renderer_refuses_what_it_does_not_know(wrong: str) -> None:
    with pytest.raises(ValueError):
        render(wrong, values={"a": "x"})


def test_the_renderer_gives_what_helm_gives() -> None:
    text = (
        "a:\n  {{- range .Values.list }}\n  - {{ . | quote }}\n  {{- end }}\n"
        "b: {{ if .Values.off }}x{{ else }}y{{ end }}\n"
        "c:\n  {{- toYaml .Values.d | nindent 2 }}\n"
    )
    assert render(text, values={"list": ["p", "q"], "off": False, "d": {"e": 1}}) == (
        'a:\n  - "p"\n  - "q"\nb: y\nc:\n  e: 1\n'
    )
