//! Memory for keys: nobody else reads it, it is never swapped out or dumped, and it is wiped when it is let go.
//!
//! `memfd_secret` (Linux 5.14) takes the pages out of the kernel's own map: not even the kernel, or a debugger that
//! is root, reads them. Where the kernel does not have it, they are locked pages that no core dump contains.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::slice;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize as _;

/// How sealed memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// `memfd_secret`: out of the kernel's own map.
    Secret,
    /// Locked in memory and left out of dumps.
    Locked,
}

/// A piece of sealed memory.
#[derive(Debug)]
pub(super) struct Sealed {
    start: NonNull<libc::c_void>,
    mapped: NonZeroUsize,
    length: usize,
    seal: Seal,
}

impl Sealed {
    /// As many bytes, all zero.
    ///
    /// # Errors
    /// When the system has no memory that may be locked (`RLIMIT_MEMLOCK`).
    pub(super) fn new(length: usize) -> io::Result<Self> {
        let mapped = NonZeroUsize::MIN.saturating_add(length);
        let (start, seal) = match secret_pages(mapped) {
            Ok(start) => (start, Seal::Secret),
            Err(_) => (locked_pages(mapped)?, Seal::Locked),
        };
        Ok(Self { start, mapped, length, seal })
    }

    /// The same bytes, sealed.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let mut sealed = Self::new(bytes.len())?;
        sealed.copy_from_slice(bytes);
        Ok(sealed)
    }

    /// How sealed it is.
    pub(super) const fn seal(&self) -> Seal {
        self.seal
    }
}

#[expect(unsafe_code, reason = "no safe crate offers memfd_secret")]
fn secret_pages(mapped: NonZeroUsize) -> Result<NonNull<libc::c_void>, Errno> {
    // SAFETY: the call takes one number and touches no memory of ours.
    let made = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let raw = i32::try_from(Errno::result(made)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for this call, and nothing else knows its number.
    let file = unsafe { OwnedFd::from_raw_fd(raw) };
    let length = libc::off_t::try_from(mapped.get()).map_err(|_| Errno::EOVERFLOW)?;
    nix::unistd::ftruncate(&file, length)?;
    // SAFETY: a new mapping at an address of the kernel's choice, of a file that has the length and that nobody else
    // can open: nothing else changes its bytes. The mapping outlives the descriptor.
    unsafe {
        mmap(None, mapped, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &file, 0)
    }
}

#[expect(unsafe_code, reason = "no safe crate offers locked pages that are left out of dumps")]
fn locked_pages(mapped: NonZeroUsize) -> io::Result<NonNull<libc::c_void>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let start = unsafe { mmap_anonymous(None, mapped, protection, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: both calls are for exactly the mapping that was just made, and change none of its bytes.
    let prepared = unsafe {
        madvise(start, mapped.get(), MmapAdvise::MADV_DONTDUMP).and_then(|()| mlock(start, mapped.get()))
    };
    if let Err(error) = prepared {
        // SAFETY: it was just made, and nobody has been given a reference into it.
        let _ = unsafe { munmap(start, mapped.get()) };
        return Err(error.into());
    }
    Ok(start)
}

impl Deref for Sealed {
    type Target = [u8];

    #[expect(unsafe_code, reason = "the mapping is known by its address alone")]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has at least `length` bytes, all initialised by the kernel, lives as long as `self`,
        // and is changed only through `&mut self`.
        unsafe { slice::from_raw_parts(self.start.cast().as_ptr(), self.length) }
    }
}

impl DerefMut for Sealed {
    #[expect(unsafe_code, reason = "the mapping is known by its address alone")]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only way to it meanwhile.
        unsafe { slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.length) }
    }
}

impl Drop for Sealed {
    #[expect(unsafe_code, reason = "what was mapped by hand is unmapped by hand")]
    fn drop(&mut self) {
        self.zeroize_all();
        // SAFETY: the mapping is this value's own, and no reference into it outlives it. Only a wrong address fails.
        let _ = unsafe { munmap(self.start, self.mapped.get()) };
    }
}

impl Sealed {
    fn zeroize_all(&mut self) {
        self.deref_mut().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_are_kept_and_may_be_of_any_length() {
        for length in [0, 1, 4095, 4096, 4097, 100_000] {
            let bytes: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect();
            let mut sealed = Sealed::copy_of(&bytes).unwrap();
            assert_eq!(&*sealed, &bytes[..]);
            sealed.zeroize_all();
            assert!(sealed.iter().all(|byte| *byte == 0) && sealed.len() == length);
        }
    }

    #[test]
    fn the_kernel_says_that_it_is_sealed() {
        let sealed = Sealed::copy_of(&[7; 4096]).unwrap();
        let start = format!("{:x}-", sealed.start.as_ptr() as usize);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, own) = maps.split_once(&format!("\n{start}")).expect("its own entry");
        let flags = own.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        let has = |flag| flags.split_whitespace().any(|word| word == flag);
        assert!(has("lo") && has("dd"), "{:?}: locked and not dumped, but {flags}", sealed.seal());
        let is_secret = own.lines().next().is_some_and(|line| line.contains("secretmem"));
        assert_eq!(is_secret, sealed.seal() == Seal::Secret);
    }

    #[test]
    fn locked_pages_take_the_place_of_secret_ones() {
        let mapped = NonZeroUsize::new(4096).unwrap();
        let start = locked_pages(mapped).unwrap();
        let mut sealed = Sealed { start, mapped, length: 10, seal: Seal::Locked };
        sealed.copy_from_slice(b"0123456789");
        assert_eq!(&*sealed, b"0123456789");
    }
}
