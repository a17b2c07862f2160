"""The CRD as a template of charts/finetune-operator: gated by crds.enabled, kept on uninstall by crds.keep.

A template and not Helm's crds/ folder, which Helm never upgrades.
"""

import re

HEADER = """{{- /* Generated from finetune_api by `make generate`; do not edit. */}}
{{- if .Values.crds.enabled }}
"""
KEEP = """metadata:
  name: NAME
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


def chart_crd(crd: str) -> str:
    """The template's text. Raises ValueError if the CRD's own text would be taken for template actions."""
    if "{{" in crd or "}}" in crd:
        raise ValueError("the CRD holds '{{' or '}}', which Helm would execute; rephrase the description")
    head, name, rest = re.split(r"^metadata: \{name: (\S+)\}\n", crd, maxsplit=1, flags=re.MULTILINE)
    return f"{HEADER}{head}{KEEP.replace('NAME', name)}{rest}{{{{- end }}}}\n"
