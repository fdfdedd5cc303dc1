//! Codes from counts: lengths of at most so many bits, and the codes that follow from them (RFC 1951 section 3.2.2).

/// A code, bits reversed as they are sent, and its length in bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) bits: u16,
    pub(super) len: u8,
}

/// Computes the lengths of the codes of `counts`, none longer than `len_max`; unused symbols have none.
pub(super) fn lengths(counts: &[u32], len_max: u32, lens: &mut [u8], work: &mut Vec<u64>) {
    lens.fill(0);
    work.clear();
    work.extend(
        (0_u64..).zip(counts).filter(|(_, count)| **count > 0).map(|(n, count)| u64::from(*count) << 16 | n),
    );
    match work.as_slice() {
        [] => return,
        [one] => {
            lens[(one & 0xffff) as usize] = 1;
            return;
        }
        _ => {}
    }
    work.sort_unstable();
    let mut used = [0_u32; 16];
    depths(work, len_max, &mut used);
    // The rarest symbols get the longest codes.
    let mut symbols = work.iter();
    for len in (1..=len_max).rev() {
        for entry in symbols.by_ref().take(used[len as usize] as usize) {
            lens[(entry & 0xffff) as usize] = len as u8;
        }
    }
}

/// How many codes of each length there are. `sorted` holds a count above 16 bits of symbol, rarest first.
fn depths(sorted: &[u64], len_max: u32, used: &mut [u32; 16]) {
    let n = sorted.len();
    // Inner nodes: weight, then parent.
    let mut nodes = [(0_u64, 0_u16); 290];
    let mut leaf_parents = [0_u16; 290];
    let (mut leaf, mut inner) = (0, 0);
    for made in 0..n - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let takes_leaf = leaf < n && (inner >= made || sorted[leaf] >> 16 <= nodes[inner].0);
            if takes_leaf {
                weight += sorted[leaf] >> 16;
                leaf_parents[leaf] = made as u16;
                leaf += 1;
            } else {
                weight += nodes[inner].0;
                nodes[inner].1 = made as u16;
                inner += 1;
            }
        }
        nodes[made].0 = weight;
    }
    let mut depth = [0_u32; 290];
    for node in (0..n - 2).rev() {
        depth[node] = depth[usize::from(nodes[node].1)] + 1;
    }
    for parent in &leaf_parents[..n] {
        used[(depth[usize::from(*parent)] + 1).min(len_max) as usize] += 1;
    }
    limit(len_max, used);
}

/// Makes codes longer until all of them fit, after those that were too long were cut.
fn limit(len_max: u32, used: &mut [u32; 16]) {
    let max = len_max as usize;
    let mut total: u32 = (1..=max).map(|len| used[len] << (max - len)).sum();
    while total > 1 << max {
        used[max] -= 1;
        for len in (1..max).rev() {
            if used[len] > 0 {
                used[len] -= 1;
                used[len + 1] += 2;
                break;
            }
        }
        total -= 1;
    }
}

/// The codes with these lengths.
pub(super) fn codes(lens: &[u8], codes: &mut [Code]) {
    let mut used = [0_u16; 16];
    lens.iter().for_each(|len| used[usize::from(*len)] += 1);
    used[0] = 0;
    let mut next = [0_u16; 16];
    for len in 1..16 {
        next[len] = next[len - 1].wrapping_add(used[len - 1]) << 1;
    }
    for (code, len) in codes.iter_mut().zip(lens) {
        if *len == 0 {
            *code = Code::default();
            continue;
        }
        let bits = next[usize::from(*len)];
        next[usize::from(*len)] = bits.wrapping_add(1);
        *code = Code { bits: bits.reverse_bits() >> (16 - len), len: *len };
    }
}
