"""Environment of the download and train containers: ours, then credentials by reference, then the user's."""

from finetune_api import constants
from finetune_api.locations import Scheme, parse_location

from ..plan.types import Object
from .request import Request

CA_DIR = "/etc/finetune-ca"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")


def environment(request: Request, own: dict[str, str]) -> list[Object]:
    """The list of env entries, each name once; `own` are the variables of this container alone."""
    entries = [*_common(request, own), *_storage(request), *_network(request)]
    theirs = [entry.model_dump(by_alias=True, exclude_none=True) for entry in request.spec.env or []]
    replaced = {entry["name"] for entry in theirs}
    entries = [_literal(entry) for entry in entries if entry["name"] not in replaced]
    return [*entries, *_secrets([*entries, *theirs]), *theirs]


def _literal(entry: Object) -> Object:
    """Kubernetes would put other variables, secrets among them, in place of a $(NAME) that a key of spec holds."""
    return {**entry, "value": entry["value"].replace("$(", "$$(")} if "value" in entry else entry


def _secrets(entries: list[Object]) -> list[Object]:
    """Tells the pod which values it must not write anywhere."""
    names = [entry["name"] for entry in entries if "secretKeyRef" in (entry.get("valueFrom") or {})]
    return [{"name": constants.ENV_SECRETS, "value": ",".join(names)}] if names else []


def _common(request: Request, own: dict[str, str]) -> list[Object]:
    values = {
        constants.ENV_CONFIG: constants.CONFIG_FILE,
        constants.ENV_JOB_NAME: request.name,
        constants.ENV_JOB_NAMESPACE: request.namespace,
        constants.ENV_JOB_UID: request.identity,
        constants.ENV_WORK_DIR: constants.WORK_DIR,
        constants.ENV_MODEL_DIR: constants.MODEL_DIR,
        constants.ENV_MODEL_CACHE_DIR: constants.MODEL_CACHE_DIR,
        constants.ENV_TERMINATION_LOG: constants.TERMINATION_LOG,
        "HOME": "/tmp",  # the root file system is read-only, and libraries keep caches in the home directory
        **own,
    }
    fields = {
        constants.ENV_POD_IP: "status.podIP",
        constants.ENV_POD_NAME: "metadata.name",
        constants.ENV_NODE_NAME: "spec.nodeName",
    }
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
    ]


def _storage(request: Request) -> list[Object]:
    spec = request.spec
    entries: list[Object] = []
    if spec.bucket_storage_host:
        host = spec.bucket_storage_host
        entries.append({"name": "AWS_ENDPOINT_URL", "value": host if "://" in host else f"https://{host}"})
    if secret := spec.bucket_credentials_secret:
        entries.append(_from_secret("AWS_ACCESS_KEY_ID", secret.name, secret.access_key_key))
        entries.append(_from_secret("AWS_SECRET_ACCESS_KEY", secret.name, secret.secret_key_key))
    if token := spec.hf_token_secret:
        entries.append(_from_secret("HF_TOKEN", token.name, token.key))
    return entries


def _from_secret(name: str, secret: str, key: str) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _network(request: Request) -> list[Object]:
    spec = request.spec
    values: dict[str, str] = {}
    for name, value in (
        ("HTTP_PROXY", spec.http_proxy),
        ("HTTPS_PROXY", spec.https_proxy),
        ("NO_PROXY", spec.no_proxy),
    ):
        if value:
            values |= {name: value, name.lower(): value}  # libraries differ in which of the two they read
    if spec.ca_bundle_config_map:
        values |= dict.fromkeys(CA_VARIABLES, f"{CA_DIR}/{spec.ca_bundle_config_map.key}")
    return [{"name": name, "value": value} for name, value in values.items()]


def data_locations(request: Request) -> list[str]:
    """The paths of all datasets that are used (those of weight 0 are not), in the order of the manifest, each once."""
    paths: list[str] = []
    for source in (request.spec.data_conf.training_data, request.spec.data_conf.validation_data):
        datasets = getattr(source, "datasets", None) or []
        paths += [dataset.path for dataset in datasets if getattr(dataset, "sampling_weight", 1.0) > 0]
    return list(dict.fromkeys(paths))


def mounted_sources(request: Request) -> list[tuple[Scheme, str]]:
    """What the download pod reads data from in its own file system, as scheme and name: claims (pvc), ConfigMaps
    (configmap), and the ConfigMaps of named datasets (dataset)."""
    locations = [parse_location(path) for path in data_locations(request)]
    found = [(location.scheme, location.container) for location in locations]
    return [one for one in dict.fromkeys(found) if one[0] in ("pvc", "configmap", "dataset")]
