"""What the administrator lets jobs use: images, places that models come from, and code of model repositories.

The lists are settings of the operator, empty by default (everything is allowed). They are asked before pods are made,
never about pods that run: a list that became shorter stops no training, only its next attempt.
"""

from fnmatch import fnmatchcase

from finetune_api.locations import LocationError, parse_location, redirects
from finetune_api.peft_conf import PretrainedPeftConfig
from finetune_api.spec import FineTuneJobSpec

from ..settings import Settings
from . import endings
from .context import Context
from .types import FAILED, Step, Verdict


def refuse_forbidden(context: Context) -> Step:
    """Fails a job that asks for what is not allowed, unless pods of it are at work."""
    if any(not endings.ended(job) for job in context.observed.jobs):
        return Step()
    if problems := forbidden(context.request.spec, context.settings):
        return Step(verdict=Verdict(FAILED, "InvalidSpec", "; ".join(problems)))
    return Step()


def forbidden(spec: FineTuneJobSpec, settings: Settings) -> list[str]:
    """A sentence for everything in the spec that the settings do not allow: key, value, setting."""
    problems = []
    image = spec.finetuning_image
    if image and not _image_allowed(image, settings):
        problems.append(
            f"finetuningImage {image!r} is not among the images that this operator allows "
            f"(FINETUNE_ALLOWED_IMAGES: {', '.join(settings.allowed_images)}); use one of them, or leave it out"
        )
    if settings.allowed_sources:
        problems += _sources(spec, settings.allowed_sources)
    if spec.run_conf.model_args.trust_remote_code and not settings.allow_remote_code:
        problems.append(
            "run_conf.model_args.trust_remote_code is true, and this operator runs no code of model repositories "
            "(FINETUNE_ALLOW_REMOTE_CODE is not true); use a model that transformers knows, or ask for the setting"
        )
    return problems


def _image_allowed(image: str, settings: Settings) -> bool:
    """The operator's own trainer image always is."""
    allowed = settings.allowed_images
    return not allowed or image == settings.trainer_image or any(image_matches(image, entry) for entry in allowed)


def _sources(spec: FineTuneJobSpec, allowed: tuple[str, ...]) -> list[str]:
    """Places that a model, tokenizer or adapter comes from, and what could make another place of them."""
    places = {"basemodel": spec.basemodel}
    if spec.run_conf.tokenizer:
        places["run_conf.tokenizer"] = spec.run_conf.tokenizer
    if isinstance(spec.peft_conf, PretrainedPeftConfig):
        places["peft_conf.name_or_path"] = spec.peft_conf.name_or_path
    detours = {
        "bucketStorageHost": spec.bucket_storage_host,
        "httpProxy": spec.http_proxy,
        "httpsProxy": spec.https_proxy,
    }
    problems = []
    for key, text in (*places.items(), *((key, text) for key, text in detours.items() if text)):
        uri = _canonical(text if key == "basemodel" else _named(text)) if key in places else text.rstrip("/")
        if not any(source_matches(uri, entry) for entry in allowed):
            problems.append(
                f"{key} {text!r} is not among the sources that this operator allows "
                f"(FINETUNE_ALLOWED_SOURCES: {', '.join(allowed)}); use one of them"
            )
    for variable in spec.env or []:
        if redirects(variable.name):
            problems.append(
                f"env {variable.name} could lead downloads elsewhere, and this operator restricts sources "
                "(FINETUNE_ALLOWED_SOURCES); remove it, or use bucketStorageHost, httpProxy and httpsProxy"
            )
    return problems


def _named(text: str) -> str:
    """A bare org/name of a tokenizer or an adapter is a Hugging Face id."""
    return text if "://" in text or text.startswith("/") else f"hf://{text}"


def _canonical(text: str) -> str:
    try:
        return parse_location(text).uri
    except LocationError:
        return text


def image_matches(image: str, entry: str) -> bool:
    """Whether an entry allows an image: as a glob over the whole reference, or as a registry, a folder of it or a
    repository, with any tag or digest."""
    if _is_glob(entry):
        return fnmatchcase(image, entry)
    entry = entry.rstrip("/")
    if image == entry or image.startswith(f"{entry}/"):
        return True
    rest = image.removeprefix(entry)  # of a repository: a tag or a digest, and no further path (host:port/…)
    return rest != image and rest[0] in ":@" and "/" not in rest


def source_matches(uri: str, entry: str) -> bool:
    """Whether an entry allows a place: as a glob over the whole URI, or as that place and all below it."""
    if _is_glob(entry):
        return fnmatchcase(uri, entry)
    if entry.endswith("://"):
        return uri.startswith(entry)
    entry = entry.rstrip("/")
    return uri == entry or uri.startswith((f"{entry}/", f"{entry}@"))


def _is_glob(entry: str) -> bool:
    return any(character in entry for character in "*?[")
