//! What this process has taken of its processors.

use std::time::Duration;

/// Time on the processor of all threads since the process began; `None` where the system does not tell.
#[cfg(unix)]
pub(super) fn time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanos) = (
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    );
    Some(Duration::new(seconds, nanos))
}

/// Time on the processor of all threads since the process began; `None` where the system does not tell.
#[cfg(not(unix))]
pub(super) fn time() -> Option<Duration> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::time;

    #[test]
    fn work_takes_time_on_the_processor() {
        let before = time().unwrap();
        let sum: f64 = (0..10_000_000)
            .map(|number| std::hint::black_box(f64::from(number)).sqrt())
            .sum();
        assert!(sum > 0.0 && time().unwrap() > before);
    }
}
