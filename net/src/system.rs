//! Calls to the kernel that no library of ours makes.

/// Binds the calling thread to the `place`-th of the CPUs that it may use, modulo their number.
///
/// # Errors
/// The kernel's refusal.
#[allow(unsafe_code)]
pub fn pin_this_thread(place: usize) -> std::io::Result<()> {
    // SAFETY: a cpu_set_t is a plain bit mask, valid when zeroed; both calls get its true size and only read or fill
    // it; CPU_ISSET and CPU_SET are given indices below CPU_SETSIZE.
    unsafe {
        let mut usable: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut usable) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let cpus: Vec<usize> =
            (0..libc::CPU_SETSIZE as usize).filter(|c| libc::CPU_ISSET(*c, &usable)).collect();
        let Some(cpu) = cpus.get(place % cpus.len().max(1)) else { return Ok(()) };
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(*cpu, &mut one);
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
