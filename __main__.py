"""
Deploy one hospital's receiver: read its stack file, make the components, tell what to type into the modality.
"""

import pulumi

from infra.alarms import Watched
from infra.application import (
    HEALTH_PORT,
    RECEIVER_PORT,
    TLS_PORT,
    Deployed,
    process_environment,
    receiver_environment,
    receiver_secrets,
    settings_file,
)
from infra.config import NO_ALARM_EMAIL
from infra.data_store import DataStore, DataStoreArgs
from infra.image import Image, ImageArgs
from infra.import_workflow import WORK_DIR, ImportWorkflow, ImportWorkflowArgs
from infra.network import Network, NetworkArgs
from infra.notifications import Notifications, NotificationsArgs
from infra.observability import Observability, ObservabilityArgs
from infra.operator_role import OperatorRole, OperatorRoleArgs
from infra.policies import ACTORS, Places, grants_for
from infra.receiver import Receiver, ReceiverArgs
from infra.stack import echo_command, read_stack, wanted_vpc
from infra.storage import Storage, StorageArgs

config, account = read_stack()
name, tags, key = config.name, config.all_tags, config.kms_key_arn or None
state_machine = f"{name}-import"
state_machine_arn = f"arn:aws:states:{config.region}:{account.account_id}:stateMachine:{state_machine}"
receiver_port = RECEIVER_PORT if config.mutual_tls is None else TLS_PORT

network = Network(
    name,
    NetworkArgs(
        vpc=wanted_vpc(config, account),
        region=config.region,
        endpoints=config.wanted_endpoints,
        peers=config.peers,
        listener_port=config.scp_port,
        receiver_port=receiver_port,
        health_port=HEALTH_PORT,
        commitment_peers=[(peer.host, peer.port) for peer in config.storage_commitment_peers],
        log_retention_days=config.log_retention_days,
        kms_key_arn=key,
        tags=tags,
    ),
)
storage = Storage(
    name,
    StorageArgs(
        account_id=account.account_id,
        retention_days=config.retention_days,
        log_retention_days=config.log_retention_days,
        kms_key_arn=key,
        access_logs=bool(config.tls_certificate_arn),
        protect=config.protect,
        tags=tags,
    ),
)
data_store = DataStore(
    name,
    DataStoreArgs(
        account_id=account.account_id,
        region=config.region,
        data_store_id=str(config.data_store_id) if config.data_store_id else None,
        staging_bucket_arn=storage.staging_bucket.arn,
        results_bucket_arn=storage.results_bucket.arn,
        kms_key_arn=key,
        protect=config.protect,
        tags=tags,
    ),
)
image = Image(
    name,
    ImageArgs(
        account_id=account.account_id,
        region=config.region,
        cpu_architecture=config.cpu_architecture,
        kms_key_arn=key,
        protect=config.protect,
        tags=tags,
    ),
)
notifications = Notifications(
    name,
    NotificationsArgs(
        account_id=account.account_id,
        email=config.alarm_email if config.alarm_email != NO_ALARM_EMAIL else None,
        kms_key_arn=key,
        tags=tags,
    ),
)
places = Places(
    staging_bucket=storage.staging_bucket.arn,
    results_bucket=storage.results_bucket.arn,
    table=storage.table.arn,
    data_store=data_store.arn,
    data_access_role=data_store.access_role_arn,
    state_machine=state_machine_arn,
    topic=notifications.topic.arn,
    topic_key=notifications.key_arn,
    kms_key=config.kms_key_arn,
)
deployed = Deployed(
    account_id=account.account_id,
    staging_bucket=storage.staging_bucket.bucket,
    results_bucket=storage.results_bucket.bucket,
    table=storage.table.name,
    data_store_id=data_store.id,
    data_access_role_arn=data_store.access_role_arn,
    state_machine_arn=state_machine_arn,
    topic_arn=notifications.topic.arn,
)
workflow = ImportWorkflow(
    name,
    ImportWorkflowArgs(
        account_id=account.account_id,
        region=config.region,
        state_machine_name=state_machine,
        image_uri=image.uri,
        cpu_architecture=config.cpu_architecture,
        environment=process_environment(config, deployed, work_dir=WORK_DIR),
        places=places,
        dead_letters=notifications.dead_letters.arn,
        log_retention_days=config.log_retention_days,
        kms_key_arn=key,
        tags=tags,
    ),
)
receiver = Receiver(
    name,
    ReceiverArgs(
        account_id=account.account_id,
        region=config.region,
        vpc_id=network.vpc_id,
        load_balancer_subnet_ids=network.public_subnet_ids if config.internet_facing else network.private_subnet_ids,
        task_subnet_ids=network.private_subnet_ids,
        load_balancer_security_group_id=network.load_balancer_security_group_id,
        task_security_group_id=network.receiver_security_group_id,
        internet_facing=config.internet_facing,
        listener_port=config.scp_port,
        receiver_port=receiver_port,
        certificate_arn=config.tls_certificate_arn or None,
        network_timeout=config.network_timeout,
        access_log_bucket=storage.access_log_bucket.bucket if storage.access_log_bucket else None,
        access_logs_ready=storage.access_logs_ready,
        image_uri=image.uri,
        repository_arn=image.repository_arn,
        cpu_architecture=config.cpu_architecture,
        cpu=config.task_cpu,
        memory=config.task_memory_limit,
        ephemeral_storage=config.task_ephemeral_storage,
        desired_count=config.task_desired_count,
        max_count=config.autoscale_max_capacity,
        environment=receiver_environment(config, deployed),
        secrets=receiver_secrets(config),
        grants=grants_for(ACTORS["receiver"], places),
        log_retention_days=config.log_retention_days,
        kms_key_arn=key,
        protect=config.protect,
        tags=tags,
    ),
    # the subnets' ways out and the rules have to be there before a task starts
    opts=pulumi.ResourceOptions(depends_on=[network, workflow]),
)
operators = OperatorRole(
    name,
    OperatorRoleArgs(account_id=account.account_id, principals=config.operator_principals, places=places, tags=tags),
)
observability = Observability(
    name,
    ObservabilityArgs(
        region=config.region,
        watched=Watched(
            cluster=receiver.cluster.name,
            service=receiver.service.name,
            load_balancer=receiver.load_balancer.arn_suffix,
            target_group=receiver.target_group.arn_suffix,
            functions={function: made.name for function, made in workflow.functions.items()},
            state_machine=workflow.state_machine.arn,
            dead_letters=notifications.dead_letters.name,
            application=name,
        ),
        topic_arn=notifications.topic.arn,
        tags=tags,
    ),
)

pulumi.export("NetworkLoadBalancerDNS", receiver.dns_name)
pulumi.export("DICOMPort", config.scp_port)
pulumi.export("DICOMAETitle", str(config.scp_ae_title))
pulumi.export("echoCommand", receiver.dns_name.apply(lambda dns_name: echo_command(config, dns_name)))
pulumi.export("stagingBucket", storage.staging_bucket.bucket)
pulumi.export("resultsBucket", storage.results_bucket.bucket)
pulumi.export("metadataTable", storage.table.name)
pulumi.export("dataStoreId", data_store.id)
pulumi.export("stateMachineArn", workflow.state_machine.arn)
pulumi.export("receiverLogGroup", receiver.log_group.name)
pulumi.export("dashboardUrl", observability.dashboard_url)
pulumi.export("operatorRoleArn", operators.arn)
pulumi.export("settings", settings_file(config, deployed))
