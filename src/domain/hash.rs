//! Hashes that are the same on every node, after every restart and in every version.

use aws_lc_rs::digest;

use super::{DeviceId, TenantId};

/// A stable hash of a device for one purpose: different purposes, and different salts, give independent numbers.
///
/// FNV-1a over purpose, 0, salt, 0, tenant (little endian) and id, then the finalizer of SplitMix64.
pub fn stable_hash(purpose: &str, salt: &str, tenant: TenantId, device: &DeviceId) -> u64 {
    let head = purpose.bytes().chain([0]).chain(salt.bytes()).chain([0]);
    stable_hash_of(head.chain(tenant.0.to_le_bytes()).chain(device.as_str().bytes()))
}

/// The same of any bytes.
pub fn stable_hash_of(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// SHA-256 (FIPS 180-4): of keys, and of certificates, which are known by it.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_never_changes_and_purposes_and_salts_are_independent() {
        let device: DeviceId = "tsn-746".parse().expect("a device id");
        let hash = |purpose, salt| stable_hash(purpose, salt, TenantId(3), &device);
        // Written down: an auditor computes the same.
        assert_eq!(hash("device", ""), 12_296_686_309_656_019_914);
        let all = [
            hash("device", ""),
            hash("cohort", ""),
            hash("cohort", "2026"),
            stable_hash("device", "", TenantId(4), &device),
        ];
        assert_eq!(std::collections::HashSet::from(all).len(), all.len());
    }
}
