//! What this process has taken of its processors.

use std::time::Duration;

/// Time on the processor of all threads since the process began; `None` where the system does not tell.
pub(super) fn time() -> Option<Duration> {
    read(Whose::Process)
}

/// Time on the processor of this thread since it began; `None` where the system does not tell.
pub(super) fn thread_time() -> Option<Duration> {
    read(Whose::Thread)
}

enum Whose {
    Process,
    Thread,
}

#[cfg(unix)]
fn read(whose: Whose) -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(match whose {
        Whose::Process => ClockId::ProcessCPUTime,
        Whose::Thread => ClockId::ThreadCPUTime,
    });
    let (seconds, nanos) = (
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    );
    Some(Duration::new(seconds, nanos))
}

#[cfg(not(unix))]
fn read(_whose: Whose) -> Option<Duration> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::{thread_time, time};

    #[test]
    fn work_takes_time_on_the_processor_of_its_thread_and_of_the_process() {
        let before = (time().unwrap(), thread_time().unwrap());
        let sum: f64 = (0..10_000_000)
            .map(|number| std::hint::black_box(f64::from(number)).sqrt())
            .sum();
        assert!(sum > 0.0 && time().unwrap() > before.0 && thread_time().unwrap() > before.1);
    }
}
