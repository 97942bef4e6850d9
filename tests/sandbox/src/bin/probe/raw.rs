//! System calls as such.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// A system call by number. Arguments: a number; `s:TEXT`, a string; `z`, a page of zeroes; `i:NUMBER`, a pointer to it;
/// `v` and `r`, one `struct iovec` of our memory and of somebody else's.
pub(crate) fn call(number: &str, arguments: &[&str]) -> io::Result<i64> {
    let bad = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut zeroes = [0_u64; 512];
    let mut room = [0_u8; 8];
    let own = [room.as_mut_ptr() as usize, room.len()];
    // Addresses this low are never mapped: whoever may look gets EFAULT.
    let foreign = [4096_usize, room.len()];
    let mut texts = Vec::new();
    let mut integers = Vec::new();
    let mut words = [0_usize; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match *argument {
            "z" => zeroes.as_mut_ptr() as usize,
            "v" => own.as_ptr() as usize,
            "r" => foreign.as_ptr() as usize,
            other => match other.split_once(':') {
                Some(("s", text)) => {
                    let text = std::ffi::CString::new(text)?;
                    let address = text.as_ptr() as usize;
                    texts.push(text);
                    address
                }
                Some(("i", number)) => {
                    let boxed = Box::new(number.parse::<i64>().map_err(|_| bad())?);
                    let address = std::ptr::from_ref(boxed.as_ref()) as usize;
                    integers.push(boxed);
                    address
                }
                _ => other.parse::<isize>().map_err(|_| bad())?.cast_unsigned(),
            },
        };
    }
    let number: libc::c_long = number.parse().map_err(|_| bad())?;
    // SAFETY: what a call may write to is `zeroes` and `room`, which live; calls that would change this process's memory
    // elsewhere are not among the suite's attempts.
    let answer = unsafe { libc::syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Takes CAP_DAC_READ_SEARCH, which no component is granted.
pub(crate) fn raise() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let wanted = 1_u32 << 2;
    let header = [VERSION_3, 0];
    let data = [wanted, wanted, wanted, 0, 0, 0];
    // SAFETY: header and both data words have the kernel's layout and live.
    let answer = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the standard input of a process. Where no handle of the process can be had, the call is made without one.
pub(crate) fn take_descriptor(pid: usize) -> io::Result<()> {
    // SAFETY: both calls take numbers only; the new descriptors are left to the end of the process.
    let answer = unsafe {
        let handle = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        libc::syscall(libc::SYS_pidfd_getfd, handle, 0, 0)
    };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes memory that was written executable.
pub(crate) fn write_then_execute() -> io::Result<()> {
    const PAGE: usize = 4096;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing else uses; it is never run.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        page.cast::<u8>().write(0xc3);
        if libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_EXEC) == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `getpid` by the 32-bit entry, which has other numbers.
#[cfg(target_arch = "x86_64")]
pub(crate) fn foreign() -> io::Result<i32> {
    let mut answer: i64 = 20;
    // SAFETY: call 20 of the 32-bit table takes no argument and writes no memory.
    unsafe { std::arch::asm!("int 0x80", inout("rax") answer) };
    let answer = i32::try_from(answer).unwrap_or(-1);
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn foreign() -> io::Result<i32> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Whether this number is an open descriptor.
pub(crate) fn is_open(number: i32) -> bool {
    // SAFETY: asks about a number; no descriptor is changed.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

/// The largest core dump, in bytes.
pub(crate) fn core_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct that lives.
    if unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

/// Sends one byte.
pub(crate) fn udp(address: Ipv4Addr, port: u16) -> io::Result<()> {
    let to = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or_default();
    // SAFETY: the new descriptor is nobody else's; the address has the kernel's layout and lives.
    let sent = unsafe {
        let number = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        if number == -1 {
            return Err(io::Error::last_os_error());
        }
        let _socket = OwnedFd::from_raw_fd(number);
        libc::sendto(number, [0_u8].as_ptr().cast(), 1, 0, (&raw const to).cast(), length)
    };
    if sent == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
