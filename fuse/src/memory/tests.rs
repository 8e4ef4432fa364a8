use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn what_fits_is_given_as_wished() {
    let wishes =
        Wishes { cache_bytes: 64 * MIB, pinned_bytes: 8 * MIB, readahead_bytes: 32 * MIB, inodes_max: 1000 };
    let division = divide(512 * MIB, &wishes).expect("enough");
    assert_eq!(division.cache_bytes, wishes.cache_bytes);
    assert_eq!(division.pinned_bytes, wishes.pinned_bytes);
    assert_eq!(division.readahead_bytes, wishes.readahead_bytes);
    assert_eq!(division.inodes_max, 1000);
}

#[test]
fn too_little_is_refused() {
    let wishes = Wishes { cache_bytes: 0, pinned_bytes: 0, readahead_bytes: 0, inodes_max: 0 };
    let refused = divide(MEMORY_BYTES_MIN - 1, &wishes).map_err(|e| e.kind());
    assert_eq!(refused, Err(ErrorKind::InvalidArgument));
}

proptest! {
    #[test]
    fn parts_never_exceed_the_whole(
        memory in MEMORY_BYTES_MIN..(1_u64 << 40),
        cache_bytes: u64, pinned_bytes: u64, readahead_bytes: u64, inodes_max: usize,
    ) {
        let wishes = Wishes { cache_bytes, pinned_bytes, readahead_bytes, inodes_max };
        let d = divide(memory, &wishes).expect("enough");
        let sum = d.base_bytes + d.metadata_bytes + d.pinned_bytes + d.cache_bytes + d.readahead_bytes
            + d.in_flight_bytes + d.dirty_bytes + d.disk_queue_bytes;
        prop_assert!(sum <= memory, "{d:?}");
        prop_assert!(d.cache_bytes <= cache_bytes && d.pinned_bytes <= pinned_bytes);
        prop_assert!(d.inodes_max as u64 * INODE_BYTES + d.stats_max * STAT_BYTES <= d.metadata_bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_waits_and_too_much_goes_alone() {
    let bytes = ByteSemaphore::new(64 << 10);
    let half = bytes.acquire(32 << 10).await;
    let other = bytes.acquire(32 << 10).await;
    assert!(bytes.try_acquire(1).is_none());
    assert_eq!(bytes.taken(), 64 << 10);
    let huge = bytes.acquire(1 << 40);
    tokio::pin!(huge);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut huge).await.is_err(), "it waits");
    drop(half);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut huge).await.is_err(), "still");
    drop(other);
    let _huge = huge.await;
    assert!(bytes.try_acquire(1).is_none());
}

proptest! {
    #[test]
    fn enough_is_enough_and_little_more(bytes in 0_u64..(1 << 44)) {
        let memory = enough(bytes).expect("a bound");
        prop_assert!(room(memory)? >= bytes);
        prop_assert!(memory <= 128 * MIB || room(memory - 64 * MIB).is_ok_and(|room| room < bytes));
    }

    #[test]
    fn shares_fill_the_room(room in 0_u64..(1 << 44), blocks in prop::option::of(0_u64..(1 << 44))) {
        let [cache, readahead, pins] = shares(room, [blocks, None, None]);
        prop_assert_eq!(cache, blocks.unwrap_or(cache));
        let sum = cache + readahead + pins;
        prop_assert!(sum <= room.max(cache) && sum + 14 >= room.max(cache));
    }
}
