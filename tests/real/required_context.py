"""Seals or opens one message with Amazon's client and its material providers: the way to have facts that are authenticated and not stored.

Run as a program, because the import takes seconds: `required_context.py seal|open KEYFILE STORED REQUIRED`, both JSON objects, over a pipe."""
import json
import sys

import aws_encryption_sdk as esdk
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    AesWrappingAlg, CreateDefaultCryptographicMaterialsManagerInput, CreateRawAesKeyringInput, CreateRequiredEncryptionContextCMMInput)


def main(what, key_file, stored, required):
    stored, required = json.loads(stored), json.loads(required)
    providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
    with open(key_file, "rb") as key:
        keyring = providers.create_raw_aes_keyring(CreateRawAesKeyringInput(
            key_namespace="tidegate", key_name="t/acme/job/rest/v1", wrapping_key=key.read(), wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16))
    manager = providers.create_required_encryption_context_cmm(CreateRequiredEncryptionContextCMMInput(
        required_encryption_context_keys=list(required),
        underlying_cmm=providers.create_default_cryptographic_materials_manager(CreateDefaultCryptographicMaterialsManagerInput(keyring=keyring))))
    client = esdk.EncryptionSDKClient(commitment_policy=esdk.CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
    source = sys.stdin.buffer.read()
    if what == "seal":
        result, _ = client.encrypt(source=source, materials_manager=manager, encryption_context={**stored, **required}, frame_length=4096,
                                   algorithm=esdk.identifiers.Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY)
    else:
        result, _ = client.decrypt(source=source, materials_manager=manager, encryption_context=required)
    sys.stdout.buffer.write(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
