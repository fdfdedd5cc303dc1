//! Every change of metadata in several steps: what it is called, the images before it, and what is done to them.
//!
//! One line each. [`for_each_change`] gives the table to a macro, so that the crash points (`crash_points`), the failing
//! operations (`change`) and the comparison with the C tool have the same one.

macro_rules! for_each_change {
    ($with:ident) => {
        $with! {
            first_allocation: new("64K"), "write 0..4K; flush; write 6K..7K";
            allocations_side_by_side: new("64K"), "write 0..4K & write 8K..12K & write 4K+512; flush; write 0..512 & write 13K..20K fua";
            cow_over_backing: new("64K").after("write 0..64K").overlay("64K"), "write 1K..2K; flush; write 6K..13K; zero 30K..31K; flush";
            new_l2_tables: new("c512 128K"), "write 0..1K; write 40K..41K; flush; write 70K..71K & write 100K..101K";
            l2_table_of_a_snapshot: new("64K").after("write 0..20K; zero 24K..28K").snapshot(), "write 1K..2K; flush; write 24K..25K; unmap 8K..12K; flush; write 8K..9K";
            tables_that_move_are_discarded_in_the_file: new("c512 r64 64K").passing().after("write 0..20K; zero 24K..28K").snapshot(), "write 1K..2K; flush; unmap 8K..12K; flush; write 8K..10K";
            new_refcount_block: new("c512 r64 256K").after("write 0..16K"), "write 16K..40K; flush; write 40K..64K";
            refcount_table_grows: new("c512 r64 64K").after("write 0..1K").with_full_counts(), "write 1K..2K; flush; write 3K..4K & write 40K..41K; flush; write 8K..50K";
            refcount_table_grows_beside_others: new("c512 r64 64K").with_full_counts(), "write 1K..2K & write 33K..35K & flush; write 2K..3K; flush";
            l1_grows: new("c512 64K").after("write 0..1K"), "grow 2200K; write 2190K..2195K; flush";
            l1_grows_over_many_refcount_blocks: new("c512 r64 64K").after("write 0..1K"), "grow 130M; write 129M+512; flush";
            l1_growth_fails_and_its_place_is_used: new("c512 64K").after("write 0..1K"), "grow 2200K; write 1124+100; flush; write 2K+100";
            grows_over_a_longer_backing_file: new("64K").after("write 0..64K").overlay("10K"), "write 1K..2K; grow 40K; flush; write 9K..11K";
            grows_from_a_shared_and_a_compressed_tail: new("6K").after("write 0..6K").snapshot(), "grow 64K; flush; write 5K..10K";
            header_marks: new("64K").edit(|image| image.write(95, &[4])), "write 0..1K; flush";
            discard_and_reuse: new("64K").after("write 0..16K"), "discard 0..8K; flush; write 20K..24K; write 30K..32K; flush";
            freed_and_wanted_at_once: new("64K").after("write 0..16K"), "discard 0..8K; write 20K..24K; write 24K..28K; write 28K..40K; flush; unmap 8K..12K; write 40K..44K; write 44K..60K & discard 12K..16K; write 60K..64K";
            overwritten_and_wanted_at_once: State::golden("c1k-mixed"), "write 0..4K; write 40K..42K; write 42K..44K; write 4K..9K; write 44K..48K; write 9K..16K; write 28K..30K; flush";
            zero_and_reuse: new("64K").after("write 0..16K"), "zero 0..8K; flush; write 1K..2K; unmap 8K..12K; flush; write 8K..9K";
            v2_unmaps_and_reuses: new("v2 64K").after("write 0..16K"), "unmap 0..8K; flush; write 20K..24K; discard 8K..12K; flush; write 30K..32K";
            close_without_flush: new("64K"), "write 0..4K; write 10K..11K; discard 0..4K";
            compressed_clusters_are_overwritten: State::golden("c1k-mixed"), "write 0..512; flush; write 8K..9K & write 2500+600; flush; write 36K..38K; unmap 3K..5K; flush; write 1K..2K";
            shared_clusters_are_overwritten: State::golden("c1k-mixed"), "write 16500+100; flush; write 20K..22K & zero 30K..31K; flush; discard 16K..17K; write 18K..19K";
            cow_of_head_and_tail: new("c4K 64K").after("write 0..64K").overlay("c16K 64K"), "write 1K..2K & write 20K..40K; flush; write 63K..64K";
            data_to_zero_to_data: new("c4K 64K").after("write 0..32K"), "zero 0..12K; flush; write 1K..2K; flush; zero 1K..3K; unmap 4K..8K; write 5K..6K; flush";
            freed_space_is_discarded_in_the_file: new("c4K 64K").passing().after("write 0..32K"), "discard 0..12K; flush; write 32K..36K; flush; discard 16K..20K; flush; write 40K..60K";
            all_tables_grow_at_once: new("c512 r64 64K").after("write 0..1K").with_full_counts(), "grow 2200K; write 2190K..2192K & write 40K..41K & zero 1K..2K; flush";
            grows_beside_writes: new("c512 r64 64K").after("write 0..1K"), "grow 2200K & write 1K..3K & write 40K..42K; flush & write 2100K..2101K; write 100K..101K";
            read_only_and_back: new("c4K 64K").after("write 0..8K"), "write 8K..12K; ro; rw; write 12K..14K; discard 0..4K; ro; rw; write 0..1K; flush";
            other_caches_beside_writes: new("c512 r64 256K").after("write 0..16K"), "write 16K..40K; cache 1M; write 60K..61K; cache 0; write 100K..110K; flush";
            read_only_and_back_with_autoclear_features: new("64K").after("write 0..4K").edit(|image| image.write(95, &[4])), "ro; rw; write 5K..6K; ro; rw; write 0..1K";
            backing_file_gets_another_name: new("64K").after("write 0..20K").overlay("64K"), "write 1K..2K; name a-longer-name.img; write 8K..9K; name x; flush; no name; write 30K..31K";
            backing_file_of_version_2_gets_another_name: new("v2 64K").after("write 0..20K").overlay("v2 64K"), "write 1K..2K; name other.img; write 9K..10K; flush; name base";
            narrow_counts: new("c1K r1 48K"), "write 0..5K & write 20K..22K; flush; discard 0..2K; write 30K..34K; flush; write 0..1K";
            large_clusters: new("c64K 1M"), "write 1000..2000; flush; write 64K..200K & zero 300K..400K; flush; discard 64K..128K; write 900K..901K";
            compressed_writes_share_clusters: new("64K"), "press 0..12K & press 20K..28K; flush; press 12K..20K; write 2K..3K; flush; press 32K..40K & press 40K..44K";
            compressed_writes_replace_others: new("zstd 64K").after("write 0..8K; press 8K..24K; zero 24K..28K").overlay("zstd 64K"), "press 4K..12K; flush; press 4K..8K & write 8K..9K; press 24K..28K; flush; discard 0..8K; flush; press 0..4K";
            compressed_clusters_with_narrow_counts: new("c4K r1 64K"), "press 0..16K; flush; press 4K..8K & press 16K..24K; flush; write 100..200";
            compressed_clusters_fill_their_counts: new("c4K r2 64K"), "press 0..32K & press 32K..48K; flush; press 0..8K; unmap 8K..16K; flush; press 48K..56K";
            the_last_compressed_cluster_is_short: new("c4K 18K"), "press 12K..18K; flush; press 16K..18K; grow 32K; press 16K..24K; flush";
            freed_compressed_space_is_discarded_in_the_file: new("c4K 64K").passing().after("press 0..32K"), "discard 0..8K; flush; press 32K..36K; flush; unmap 8K..32K & press 40K..44K; flush; press 0..12K";
            compressed_clusters_and_new_refcount_blocks: new("c1K r64 256K").with_full_counts(), "press 0..12K & press 20K..29K; flush; press 64K..100K; write 1K..2K; flush";
            a_bitmap_is_added: new("64K").after("write 0..4K"), "bitmap add a 512; write 4K..6K; flush; write 9K+100";
            bitmaps_are_stored_again: new("64K").after("bitmap add a 512; bitmap add b 4096; write 0..4K"), "write 8K..10K; flush; zero 20K..21K; ro; rw; write 30K..31K & discard 8K..9K; bitmap stop a; write 40K..41K";
            bitmaps_come_and_go: new("64K").after("bitmap add a 512; bitmap add b 1024; write 0..4K"), "bitmap drop a; write 5K..6K; bitmap add c 2048; flush; bitmap drop b; write 6K..7K; ro; rw; bitmap drop c; write 7K..8K";
            the_last_bitmap_goes_and_one_comes: new("64K").after("bitmap add a 512; write 0..4K"), "bitmap drop a; ro; rw; bitmap add a 65536; write 1K..2K";
            bitmaps_are_cleared_and_merged: new("64K").after("bitmap add a 512; write 0..4K; bitmap add b 512; write 10K..12K; bitmap stop a"), "bitmap merge b a; flush; bitmap clear b; write 20K..21K; bitmap start a; ro; rw; write 30K..31K";
            a_bitmap_with_a_table_of_several_entries: new("c512 2200K").after("bitmap add a 512; write 0..1K"), "discard 0..2M; write 2150K+100; ro; rw; write 2100K+100";
            the_disk_grows_with_bitmaps: new("c512 64K").after("bitmap add a 512; bitmap add b 65536; write 0..1K"), "grow 200K; write 190K..191K; flush; ro; rw; grow 256K; write 200K..201K";
            bitmaps_over_backing_with_a_long_name: new("64K").after("write 0..20K").overlay("64K"), "name a-name-that-is-long-enough-to-be-in-the-way-of-the-extension-and-does-not-fit-into-the-first-sector-beside-it-as-the-feature-names-have-gone-and-more; bitmap add a 512; write 1K..2K; ro; rw; write 8K..9K; name x; bitmap add b 512";
            subclusters_are_allocated_one_by_one: new("c16K x 256K"), "write 0..512 & write 3K..4K; flush; write 600..1500; write 30K..70K; zero 40K..42K; flush; write 41000+500; unmap 32K..48K; flush; write 33K..34K";
            subclusters_over_backing: new("c16K 256K").after("write 0..256K").overlay("c16K x 256K"), "write 1K..1536 & write 20K..21K; flush; write 1300..9K; zero 5K..6K & zero 21K..22K; flush; write 5200+100; discard 16K..32K; flush; write 17K..18K";
            subclusters_of_a_snapshot: new("c16K x 256K").after("write 512..1K; write 3K..4K; zero 6K..7K; write 16K..48K").snapshot(), "write 2K..2500; flush; write 17K..18K; zero 32K..33K; unmap 33K..36K; flush; write 6500+50";
            subclusters_of_a_new_table: new("c16K x 20M").after("write 0..1K"), "write 17M+1K & write 512..1K; flush; grow 40M; write 36M+512; flush";
            data_in_a_file_of_its_own: new("data 64K").passing().after("write 0..20K"), "write 21K..22K & write 30K..36K; flush; zero 0..6K; unmap 8K..12K; discard 12K..16K; write 9K..10K; flush; write 1K..2K; grow 80K; write 70K..71K";
            data_in_a_file_of_its_own_over_backing: new("64K").after("write 0..64K").overlay("data 64K"), "write 1K..2K; flush; write 6K..13K; zero 30K..31K; discard 20K..24K; flush; write 21K..22K; write 0..512";
            data_in_a_raw_file: new("rawdata 64K").passing().after("write 0..20K"), "write 21K..22K & write 30K..36K; flush; zero 0..6K; unmap 8K..12K; discard 12K..16K; write 9K..10K; flush; write 1K..2K; grow 80K; write 70K..71K";
            data_files_change_their_length: new("rawdata 64K").after("write 0..64K"), "shrink 30K; write 29K..30K; flush; grow 50K metadata; write 49K..50K; shrink 8K; grow 20K";
            subclusters_in_a_data_file: new("c16K x 128K").after("write 0..128K").overlay("c16K x data 128K"), "write 1K..1536 & write 20K..21K; flush; zero 1K..2K; unmap 16K..32K; write 17K+300; flush; write 1200+20";
            grows_with_metadata: new("c512 r64 30K").after("write 0..1K; write 8K..20K; discard 8K..20K"), "write 2K..3K; grow 40448 metadata; flush; write 36K..37K; grow 80K metadata; write 60K..61K";
            grows_with_space: new("c4K 30K").after("write 0..30K; discard 8K..20K"), "write 2K..3K; grow 50K falloc; flush; write 36K..37K; grow 80K full; write 60K..61K";
            grows_with_metadata_over_a_longer_backing_file: new("64K").after("write 0..64K").overlay("10K"), "write 1K..2K; grow 40K metadata; flush; write 9K..11K; grow 64K falloc";
            grows_with_space_for_subclusters: new("c16K x 100K").after("write 0..30K"), "write 50K..51K; grow 200K metadata; flush; write 101K..102K; grow 256K full; write 250K..251K";
            subclusters_are_compressed: new("c16K x 128K").after("write 512..1K; write 16K..48K"), "press 0..16K & press 32K..64K; flush; write 1K..2K; press 16K..32K; flush; shrink 20K; flush";
            shrinks: new("c4K 64K").after("write 0..64K"), "write 1K..2K; shrink 30K; write 29K..30K; flush; grow 64K; write 31K..33K; shrink 5K; flush";
            shrinks_and_gives_tables_back: new("c512 r64 256K").after("write 0..4K; write 100K..140K; write 200K..202K"), "write 1K..2K & write 110K..111K; shrink 100352; flush; write 8K..9K; shrink 5K; grow 300K; write 120K..121K; flush";
            shrinks_beside_others: new("c512 r64 128K").after("write 0..128K"), "shrink 40K & write 2K..3K; flush & write 5K..7K; grow 128K; read 40K..128K; write 90K..91K";
            shrinks_over_a_snapshot_and_a_backing_file: new("64K").after("write 0..64K").overlay("c1K 64K").after("write 8K..40K").snapshot(), "write 1K..2K; shrink 20K; flush; write 19K..20K; grow 64K; write 50K..51K";
            an_overlay_is_emptied: new("c512 r64 256K").overlay("c512 r64 256K").after("write 0..4K; write 100K..140K; write 200K..202K"), "write 1K..2K & zero 110K..111K; empty; flush; write 8K..9K";
            an_overlay_with_a_snapshot_is_emptied: new("64K").overlay("c1K 64K").after("write 8K..40K").snapshot(), "write 1K..2K; empty; flush; write 19K..20K";
            an_emptied_image_is_closed: new("v2 64K").overlay("v2 64K").after("write 0..40K"), "empty";
            a_shrunk_image_is_closed: new("c512 r64 256K").after("write 0..4K; write 60K..250K"), "shrink 5K";
            becomes_version_3: new("v2 64K").after("write 0..20K").overlay("v2 64K").after("write 8K..12K"), "write 1K..2K; amend v3";
            becomes_version_2: new("c4K 64K").after("write 0..20K; zero 4K..12K; write 40K..44K; zero 40K..44K"), "write 1K..2K; zero 32K..36K; amend v2";
            becomes_version_2_over_a_backing_file: new("64K").after("write 0..64K").overlay("c4K 50K").after("write 8K..12K; zero 16K..24K; zero 47K..50K"), "write 1K..2K; amend v2";
            becomes_version_2_with_snapshots: new("c4K 64K").after("write 0..20K; zero 4K..12K; write 40K..44K; zero 40K..44K").snapshot().after("write 4K..8K; zero 0..4K"), "write 1K..2K; amend v2";
            becomes_version_2_with_snapshots_over_a_backing_file: new("64K").after("write 0..64K").overlay("c4K 64K").after("write 8K..12K; zero 8K..12K; zero 16K..24K").snapshot().after("zero 30K..40K"), "write 1K..2K; amend v2";
            becomes_version_2_with_another_compression: new("zstd 64K").after("write 0..8K"), "write 10K..11K; amend v2";
            a_data_file_is_raw_no_more: new("rawdata 64K").after("write 0..20K"), "write 21K..22K; amend unraw; write 30K..31K; zero 2K..3K; flush";
            a_data_file_gets_another_name: new("data 64K").after("write 0..20K"), "write 21K..22K; amend data another-name; write 30K..31K; flush";
            counts_become_wider: new("c512 64K").after("write 0..20K").snapshot(), "write 1K..2K; amend 64";
            counts_become_narrower: new("c512 r64 256K").after("write 0..20K; write 100K..140K; discard 100K..130K"), "write 1K..2K; amend 1";
            refcounts_become_lazy: new("c4K 64K"), "write 1K..2K; amend lazy; write 8K..9K; flush";
            is_emptied: new("c512 r64 128K").after("write 0..64K"), "write 100K..101K; empty; write 3K..4K; flush";
            discarded_clusters_keep_their_place: new("c4K 64K").passing().with(|o| o.discard_keeps = true).after("write 0..32K; press 40K..48K"), "discard 0..12K; flush; write 1K..2K; unmap 16K..24K & discard 40K..44K; flush; write 17K..20K; write 48K..52K";
            a_state_grows_l1: new("c512 r64 64K").after("write 0..1K"), "write 1K..2K; state 0..3K; flush; state 1K+100 & write 40K..41K; flush; state 30K..34K";
            a_state_beside_a_snapshot_and_other_lengths: new("c512 64K").after("write 0..4K; state 0..4K").snapshot(), "state 1K..2K; flush; grow 80K; write 70K..71K; state 512+512; flush; shrink 5K; state 0..1K; flush";
            a_state_over_backing: new("64K").after("write 0..64K").overlay("c1K 20K"), "state 100..1K & write 1K..2K; flush; state 3K..9K";
            a_state_in_a_data_file: new("data 64K").after("write 0..20K"), "state 0..5K; flush; write 21K..22K; grow 80K; state 0..1K; flush";
            everything_side_by_side: new("c512 r64 128K").after("write 0..32K").overlay("c512 r64 128K"), "write 1K..9K & zero 16K..20K & write 60K..64K & discard 4K..6K; flush & write 70K..72K; unmap 60K..62K & write 2K..3K; flush; write 100K..128K";
        }
    };
}

pub(crate) use for_each_change;
