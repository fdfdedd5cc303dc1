//! What every program of this package is: a target of `drystone-fuzz` under libFuzzer, with our mutations beside its own.

/// The program of a target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drystone_fuzz::run($name, bytes));
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], len: usize, len_max: usize, seed: u32| {
            if seed.is_multiple_of(2) {
                return libfuzzer_sys::fuzzer_mutate(data, len, len_max);
            }
            drystone_fuzz::mutate::mutate_in_place($name, &mut data[..len_max], len, seed.into())
        });
    };
}
