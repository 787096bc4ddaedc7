"""Buckets, table and data store: what is kept, for how long, and what is never replaced."""

from __future__ import annotations

import json
from typing import Any

from tests.infra.account import DATA_STORE, AccountMocks, FakeAccount
from tests.infra.harness import Deployed, as_engine, main_program, run_program


def lifecycle(deployed: Deployed, bucket: str) -> dict[str, Any]:
    rules = deployed.one("BucketLifecycleConfiguration", bucket).inputs["rules"]
    return {rule["id"]: rule for rule in rules}


def test_imported_instances_stay_for_the_retention_and_what_was_not_imported_for_ever(hospital: Deployed) -> None:
    rules = lifecycle(hospital, "staging")
    assert set(rules) == {"recycle-bin", "incomplete-uploads"}
    bin_ = rules["recycle-bin"]
    assert bin_["filter"] == {"prefix": "batches/"}
    assert bin_["noncurrentVersionExpiration"] == {"noncurrentDays": 90}
    assert bin_["expiration"] == {"expiredObjectDeleteMarker": True}


def test_results_never_expire(deployed: Deployed) -> None:
    assert set(lifecycle(deployed, "results")) == {"incomplete-uploads"}


def test_access_logs_expire_with_the_other_logs(hospital: Deployed) -> None:
    assert lifecycle(hospital, "access-logs")["expire"]["expiration"] == {"days": 1827}


def test_every_bucket_is_versioned_owned_by_us_and_drops_incomplete_uploads(deployed: Deployed) -> None:
    buckets = {item.name for item in deployed.of("s3/bucket:Bucket")}
    for kind, key, value in (
        ("BucketVersioning", "versioningConfiguration", {"status": "Enabled"}),
        ("BucketOwnershipControls", "rule", {"objectOwnership": "BucketOwnerEnforced"}),
    ):
        found = deployed.of(kind)
        assert {item.name for item in found} == buckets
        assert all(item.inputs[key] == value for item in found)
    for bucket in buckets:
        abort = lifecycle(deployed, bucket)["incomplete-uploads"]["abortIncompleteMultipartUpload"]
        assert abort == {"daysAfterInitiation": 1}


def test_the_load_balancer_may_write_access_logs_of_this_account_only(hospital: Deployed) -> None:
    allowed = [
        statement
        for statement in hospital.one("BucketPolicy", "access-logs").document()["Statement"]
        if statement["Effect"] == "Allow"
    ]
    assert {statement["Action"] for statement in allowed} == {"s3:PutObject", "s3:GetBucketAcl"}
    for statement in allowed:
        assert statement["Principal"] == {"Service": "delivery.logs.amazonaws.com"}
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_the_table_is_the_one_that_the_application_expects(deployed: Deployed) -> None:
    from adapters.outbound.dynamodb_items import TABLE_DEFINITION

    table = deployed.one("dynamodb/table:Table").inputs
    actual = {
        "AttributeDefinitions": [
            {"AttributeName": item["name"], "AttributeType": item["type"]} for item in table["attributes"]
        ],
        "KeySchema": [
            {"AttributeName": table["hashKey"], "KeyType": "HASH"},
            {"AttributeName": table["rangeKey"], "KeyType": "RANGE"},
        ],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index["name"],
                "KeySchema": [
                    {"AttributeName": key["attributeName"], "KeyType": key["keyType"]} for key in index["keySchemas"]
                ],
                "Projection": {"ProjectionType": index["projectionType"]},
            }
            for index in table["globalSecondaryIndexes"]
        ],
        "BillingMode": table["billingMode"],
    }
    assert actual == TABLE_DEFINITION


def test_the_table_can_be_brought_back_to_any_second(deployed: Deployed) -> None:
    assert deployed.one("dynamodb/table:Table").inputs["pointInTimeRecovery"] == {"enabled": True}


def test_the_data_store_is_never_replaced_by_an_edit(deployed: Deployed, stack: str) -> None:
    store = deployed.one("cloudcontrol/resource:Resource")
    assert store.inputs["typeName"] == "AWS::HealthImaging::Datastore"
    assert store.request.retainOnDelete is True
    assert list(store.request.ignoreChanges) == ["desiredState"]
    state = json.loads(store.inputs["desiredState"])
    assert state["DatastoreName"] == stack
    assert state["Tags"]["Hospital"] == stack


def test_a_given_data_store_is_used_and_none_is_made() -> None:
    given = as_engine({"aws:region": "eu-west-1", "alarmEmail": "none", "dataStoreId": DATA_STORE[::-1]})
    deployed = run_program(main_program, AccountMocks(FakeAccount()), given, stack="test")
    assert deployed.of("cloudcontrol/resource:Resource") == []
    assert deployed.outputs["dataStoreId"] == DATA_STORE[::-1]
    start = deployed.one("iam/rolePolicy:RolePolicy", "start-import").document()["Statement"]
    assert f"datastore/{DATA_STORE[::-1]}" in json.dumps(start)
