"""The manifest for GKE, held against what a cluster with JobSet checks before it takes it.

The fields of a JobSet and the rules of its webhook are those of kubernetes-sigs/jobset, v1alpha2:
api/jobset/v1alpha2/jobset_types.go and pkg/webhooks/jobset_webhook.go. The Job inside is checked
against the schema of Kubernetes itself.
"""

import re
import string
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mural_jax.distributed.rendezvous import read_world

MANIFEST = Path(__file__).parents[2] / 'launch' / 'gke_jobset.yaml'
WORDS = '--config=emoji:tiny --workdir=run --data_dir=data'
VARIABLES = {
    'NAME': 'mural',
    'IMAGE': 'image',
    'HOSTS': '64',
    'CHIPS': '4',
    'ACCELERATOR': 'tpu-v5-lite-podslice',
    'TOPOLOGY': '16x16',
    'CLAIM': 'shared',
    'ARGUMENTS': WORDS,
}
KUBERNETES = '1.31'
# By path the fields that the API knows, with their types; a list is of objects with a path of its
# own. kubectl refuses unknown fields.
FIELDS: dict[str, dict[str, type]] = {
    '': {'apiVersion': str, 'kind': str, 'metadata': dict, 'spec': dict},
    'spec': {
        'replicatedJobs': list,
        'network': dict,
        'successPolicy': dict,
        'failurePolicy': dict,
        'startupPolicy': dict,
        'suspend': bool,
        'coordinator': dict,
        'managedBy': str,
        'ttlSecondsAfterFinished': int,
        'volumeClaimPolicies': list,
    },
    'spec.network': {
        'enableDNSHostnames': bool,
        'subdomain': str,
        'publishNotReadyAddresses': bool,
    },
    'spec.failurePolicy': {'maxRestarts': int, 'restartStrategy': str, 'rules': list},
    'spec.failurePolicy.rules': {
        'name': str,
        'action': str,
        'onJobFailureReasons': list,
        'onJobFailureMessagePatterns': list,
        'targetReplicatedJobs': list,
    },
    'spec.replicatedJobs': {
        'name': str,
        'groupName': str,
        'template': dict,
        'replicas': int,
        'dependsOn': list,
    },
}
ACTIONS = (
    'FailJobSet',
    'RestartJobSet',
    'RestartJobSetAndIgnoreMaxRestarts',
    'RestartJob',
    'RestartJobAndIgnoreMaxRestarts',
)
REASONS = (
    'BackoffLimitExceeded',
    'DeadlineExceeded',
    'FailedIndexes',
    'MaxFailedIndexesExceeded',
    'PodFailurePolicy',
)
RULE_NAME = re.compile(r'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')
LABEL = re.compile(r'[a-z]([-a-z0-9]*[a-z0-9])?')  # of RFC 1035


def find_faults(jobset: dict[str, Any]) -> list[str]:
    """What the API server and the webhook of JobSet would refuse."""
    faults = [*_find_unknown_fields(jobset, '')]
    spec = jobset['spec']
    jobs = spec['replicatedJobs']
    names = [job['name'] for job in jobs]
    for job in jobs:
        inner = job['template']['spec']
        last = f'{jobset["metadata"]["name"]}-{job["name"]}-{job.get("replicas", 1) - 1}'
        # Kubernetes appends five letters to the name of a pod.
        for name in (last, f'{last}-{inner["completions"] - 1}-abcde'):
            if not LABEL.fullmatch(name) or len(name) > 63:
                faults.append(f'{name} is no name of a job or pod')
        if job.get('replicas', 1) * inner['parallelism'] > 2**31 - 1:
            faults.append(f'{job["name"]} has too many pods')
    rules = spec.get('failurePolicy', {}).get('rules', [])
    for rule in rules:
        if not RULE_NAME.fullmatch(rule['name']) or len(rule['name']) > 128:
            faults.append(f'{rule["name"]} is no name of a rule')
        if rule['action'] not in ACTIONS:
            faults.append(f'{rule["action"]} is no action')
        for reason in set(rule.get('onJobFailureReasons', [])) - set(REASONS):
            faults.append(f'{reason} is no reason')
        for target in set(rule.get('targetReplicatedJobs', [])) - set(names):
            faults.append(f'{target} is no job')
    if len({rule['name'] for rule in rules}) < len(rules):
        faults.append('two rules have one name')
    return faults


def _find_unknown_fields(node: dict[str, Any], path: str) -> list[str]:
    faults = []
    for name, value in node.items():
        below = f'{path}.{name}'.strip('.')
        if name not in FIELDS[path]:
            faults.append(f'{below} is no field')
        elif type(value) is not FIELDS[path][name]:
            faults.append(f'{below} must be {FIELDS[path][name].__name__}')
        elif below in FIELDS:
            for item in value if isinstance(value, list) else [value]:
                faults += _find_unknown_fields(item, below)
    return faults


def fill_manifest(**changes: str) -> dict[str, Any]:
    """The JobSet with all its variables filled in."""
    text = MANIFEST.read_text(encoding='utf-8')
    return yaml.safe_load(string.Template(text).substitute(VARIABLES | changes))


@pytest.fixture
def jobset() -> dict[str, Any]:
    return fill_manifest()


@pytest.fixture
def job(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset['spec']['replicatedJobs'][0]['template']['spec']


@pytest.fixture
def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job['template']['spec']


def test_jobset_would_be_taken(jobset: dict[str, Any]) -> None:
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    assert find_faults(jobset) == []


def test_job_has_the_schema_of_kubernetes(job: dict[str, Any]) -> None:
    whole = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'mural'}, 'spec': job}
    kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def test_faults_are_found(jobset: dict[str, Any]) -> None:
    """Or the tests above could not fail."""
    policy = jobset['spec']['failurePolicy']
    policy['rules'][0] |= {'name': 'mistake-', 'action': 'Fail', 'onJobFailureReasons': ['Bad']}
    policy['maxRestarts'] = '100'
    jobset['spec']['replicas'] = 2
    assert len(find_faults(jobset)) == 5
    assert find_faults(fill_manifest(NAME='m' * 60))


@pytest.mark.parametrize('wrong', [{'parallelism': '64'}, {'completionsMode': 'Indexed'}])
def test_faults_of_the_job_are_found(wrong: dict[str, str], job: dict[str, Any]) -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        test_job_has_the_schema_of_kubernetes(job | wrong)


def test_pod_runs_the_training_command(pod: dict[str, Any]) -> None:
    (container,) = pod['containers']
    assert container['command'][-1] == f'exec mural train {WORDS}'


def test_lost_pod_restarts_all_pods(job: dict[str, Any], pod: dict[str, Any]) -> None:
    assert (job['parallelism'], job['completions'], job['backoffLimit']) == (64, 64, 0)
    # A policy for failed pods needs it: validation of Jobs in Kubernetes.
    assert pod['restartPolicy'] == 'Never'


def test_user_error_ends_the_jobset(
    jobset: dict[str, Any], job: dict[str, Any], pod: dict[str, Any]
) -> None:
    (rule,) = job['podFailurePolicy']['rules']
    assert (rule['action'], rule['onExitCodes']['values']) == ('FailJob', [2])
    assert rule['onExitCodes']['containerName'] == pod['containers'][0]['name']
    (policy,) = jobset['spec']['failurePolicy']['rules']
    assert policy['onJobFailureReasons'] == ['PodFailurePolicy']


def test_pods_find_their_coordinator(pod: dict[str, Any]) -> None:
    environment = {item['name']: item.get('value') for item in pod['containers'][0]['env']}
    world = read_world(environment | {'JAX_PROCESS_ID': '3'})
    assert world is not None
    assert (world.address, world.count, world.index) == ('mural-hosts-0-0.mural:8476', 64, 3)
