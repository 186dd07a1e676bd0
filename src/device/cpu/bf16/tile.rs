//! The innermost loops: blocks of 32 x 32 sums, on AMX tiles or with AVX-512-BF16's dot products.
//!
//! The compiler knows no tiles and so never touches them: what one `asm!` leaves in them the next one finds.

use super::shape::{DEPTH, SIDE, STEP};
use std::arch::{
    asm,
    x86_64::{
        __m512, __m512bh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    },
};
use std::sync::OnceLock;

/// What multiplies bf16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// AMX tiles.
    Amx,
    /// Dot products of AVX-512-BF16.
    Avx512Bf16,
}

impl Unit {
    /// The word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

/// Whether the processor has AMX-BF16 and the system lets this process use its tiles; asked for once.
pub fn tiles_are_granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        let there = |bit: u32| leaf.edx & (1 << bit) != 0;
        there(22) && there(24) && ask_for_tiles()
    })
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`: for all threads of the process.
#[cfg(target_os = "linux")]
fn ask_for_tiles() -> bool {
    let answer: i64;
    // SAFETY: the call changes nothing but what the process may use; the kernel overwrites these two registers.
    unsafe {
        asm!("syscall", inlateout("rax") 158i64 => answer, in("rdi") 0x1023u64, in("rsi") 18u64,
             out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
}

/// Nobody knows how to ask.
#[cfg(not(target_os = "linux"))]
fn ask_for_tiles() -> bool {
    false
}

/// The shape of all eight tiles: 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileShapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: TileShapes = TileShapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tiles of this thread are set up as long as it lives; without AMX nothing is.
pub struct Session(Unit);

impl Session {
    /// Sets up the tiles.
    pub fn new(unit: Unit) -> Self {
        if unit == Unit::Amx {
            // SAFETY: the unit was detected and granted; the shapes are valid for palette 1.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly))
            };
        }
        Self(unit)
    }

    /// `c += strip . panel` over `depth` packed steps, or with `fresh` starts from zero; `tiles` are those of 16 rows
    /// and of 16 columns that are wanted, 1 or 2 each.
    ///
    /// # Safety
    /// `depth` steps are readable at `strip` and `panel`; `c` holds `16 tiles[0]` rows, `stride` elements apart, of
    /// `16 tiles[1]` elements.
    #[inline]
    pub unsafe fn add(
        &self,
        (strip, panel, depth): (*const u16, *const u16, usize),
        (c, stride): (*mut f32, usize),
        tiles: [usize; 2],
        fresh: bool,
    ) {
        if depth == 0 && !fresh {
            return;
        }
        // SAFETY: the caller's promise; the unit was detected.
        unsafe {
            match self.0 {
                Unit::Amx => {
                    load(c, stride, tiles, fresh);
                    match tiles {
                        [2, 2] => multiply_2x2(strip, panel, depth),
                        [2, _] => multiply_2x1(strip, panel, depth),
                        [_, 2] => multiply_1x2(strip, panel, depth),
                        _ => multiply_1x1(strip, panel, depth),
                    }
                    store(c, stride, tiles);
                }
                Unit::Avx512Bf16 => {
                    for row in (0..tiles[0] * SIDE).step_by(ROWS) {
                        let strip = strip.add(row * DEPTH);
                        let c = c.add(row * stride);
                        match tiles[1] {
                            2 => dots::<2>((strip, panel, depth), (c, stride), fresh),
                            _ => dots::<1>((strip, panel, depth), (c, stride), fresh),
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.0 == Unit::Amx {
            // SAFETY: the unit was detected; from here on the system has no tiles to save.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// The sums: tiles 0 and 1 above, 2 and 3 below.
unsafe fn load(c: *mut f32, stride: usize, tiles: [usize; 2], fresh: bool) {
    // SAFETY: the caller's promise, as in `add`.
    unsafe {
        if fresh {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                 out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, options(nostack));
            return;
        }
        let step = stride * 4;
        asm!("tileloadd tmm0, [{c} + {s}]", c = in(reg) c, s = in(reg) step, out("tmm0") _, options(nostack));
        if tiles[1] > 1 {
            asm!("tileloadd tmm1, [{c} + {s} + 64]", c = in(reg) c, s = in(reg) step, out("tmm1") _, options(nostack));
        }
        if tiles[0] > 1 {
            let c = c.add(SIDE * stride);
            asm!("tileloadd tmm2, [{c} + {s}]", c = in(reg) c, s = in(reg) step, out("tmm2") _, options(nostack));
            if tiles[1] > 1 {
                asm!("tileloadd tmm3, [{c} + {s} + 64]", c = in(reg) c, s = in(reg) step, out("tmm3") _, options(nostack));
            }
        }
    }
}

unsafe fn store(c: *mut f32, stride: usize, tiles: [usize; 2]) {
    // SAFETY: the caller's promise, as in `add`.
    unsafe {
        let step = stride * 4;
        asm!("tilestored [{c} + {s}], tmm0", c = in(reg) c, s = in(reg) step, options(nostack));
        if tiles[1] > 1 {
            asm!("tilestored [{c} + {s} + 64], tmm1", c = in(reg) c, s = in(reg) step, options(nostack));
        }
        if tiles[0] > 1 {
            let c = c.add(SIDE * stride);
            asm!("tilestored [{c} + {s}], tmm2", c = in(reg) c, s = in(reg) step, options(nostack));
            if tiles[1] > 1 {
                asm!("tilestored [{c} + {s} + 64], tmm3", c = in(reg) c, s = in(reg) step, options(nostack));
            }
        }
    }
}

macro_rules! multiply {
    ($name:ident, $($line:literal),+) => {
        /// Adds `depth` products to the tiles of sums.
        unsafe fn $name(strip: *const u16, panel: *const u16, depth: usize) {
            if depth == 0 {
                return;
            }
            // SAFETY: `depth` steps are readable at both; the tiles were set up.
            unsafe {
                asm!(
                    "2:",
                    $($line,)+
                    "add {a}, 2048", "add {b}, 2048", "dec {k}", "jnz 2b",
                    a = inout(reg) strip => _, b = inout(reg) panel => _, k = inout(reg) depth => _,
                    s = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

multiply!(
    multiply_2x2,
    "tileloadd tmm4, [{a} + {s}]",
    "tileloadd tmm6, [{b} + {s}]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tileloadd tmm7, [{b} + {s} + 1024]",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tileloadd tmm5, [{a} + {s} + 1024]",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7"
);
multiply!(
    multiply_2x1,
    "tileloadd tmm6, [{b} + {s}]",
    "tileloadd tmm4, [{a} + {s}]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tileloadd tmm5, [{a} + {s} + 1024]",
    "tdpbf16ps tmm2, tmm5, tmm6"
);
multiply!(
    multiply_1x2,
    "tileloadd tmm4, [{a} + {s}]",
    "tileloadd tmm6, [{b} + {s}]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tileloadd tmm7, [{b} + {s} + 1024]",
    "tdpbf16ps tmm1, tmm4, tmm7"
);
multiply!(
    multiply_1x1,
    "tileloadd tmm4, [{a} + {s}]",
    "tileloadd tmm6, [{b} + {s}]",
    "tdpbf16ps tmm0, tmm4, tmm6"
);

/// Rows that [`dots`] keeps in registers: with two vectors 16 sums, 2 of the right operand and a broadcast.
const ROWS: usize = 8;

/// Eight rows and `N` vectors of 16 columns.
///
/// # Safety
/// As [`Session::add`]; AVX-512-BF16 is there.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn dots<const N: usize>(
    (strip, panel, depth): (*const u16, *const u16, usize),
    (c, stride): (*mut f32, usize),
    fresh: bool,
) {
    // SAFETY: plain bits of the same size.
    let bits = |v| unsafe { std::mem::transmute::<std::arch::x86_64::__m512i, __m512bh>(v) };
    let mut sums: [[__m512; N]; ROWS] = [[_mm512_setzero_ps(); N]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        if !fresh {
            for (i, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(c.add(i * stride + j * SIDE));
                }
            }
        }
        for step in 0..depth {
            let (a, b) = (strip.add(step * STEP).cast::<i32>(), panel.add(step * STEP));
            for pair in 0..DEPTH / 2 {
                let mut right = [bits(_mm512_set1_epi32(0)); N];
                for (j, right) in right.iter_mut().enumerate() {
                    let at = b.add(j * SIDE * DEPTH + pair * 2 * SIDE);
                    *right = bits(_mm512_loadu_si512(at.cast()));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let left =
                        bits(_mm512_set1_epi32(a.add(i * DEPTH / 2 + pair).read_unaligned()));
                    for (sum, right) in row.iter_mut().zip(right) {
                        *sum = _mm512_dpbf16_ps(*sum, left, right);
                    }
                }
            }
        }
        for (i, row) in sums.into_iter().enumerate() {
            for (j, sum) in row.into_iter().enumerate() {
                _mm512_storeu_ps(c.add(i * stride + j * SIDE), sum);
            }
        }
    }
}
