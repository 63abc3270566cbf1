//! Mixed traffic: rates, models, speech and files together. What is fair is shown by counting and by a clock of the test's own.

use proptest::prelude::*;

use super::promises::block_on;
use super::queue::{BatchLimits, Ready, Work};
use super::*;

#[tokio::test]
async fn sessions_of_all_rates_share_batches_and_hear_what_they_hear_alone() {
    let engine = start(&Fake::new(), batching(8, 1));
    let asking = |input_rate_hz| StreamRequest {
        input_rate_hz,
        ..request()
    };
    let rates = [8_000_u32, 16_000, 44_100, 48_000];
    let mut expected = Vec::new();
    for (seed, rate) in (0..).zip(rates) {
        let audio = speech(20 + seed, 3.0 * f64::from(rate) / 16_000.0);
        let stream = engine.open(&asking(rate)).unwrap();
        send(&stream, &audio);
        stop(&stream);
        let said = finals(&rest(&stream).await);
        assert!(!said.is_empty());
        expected.push((rate, audio, said));
    }
    let streams: Vec<_> = expected
        .iter()
        .map(|(rate, ..)| engine.open(&asking(*rate)).unwrap())
        .collect();
    // A tenth of a second of each at a time.
    for tenth in 0..30 {
        for (stream, (rate, audio, _)) in streams.iter().zip(&expected) {
            let length = *rate as usize / 10 * 2;
            let from = (tenth * length).min(audio.len());
            send(stream, &audio[from..(from + length).min(audio.len())]);
        }
        tokio::task::yield_now().await;
    }
    for (stream, (rate, audio, said)) in streams.iter().zip(&expected) {
        let sent = (30 * (*rate as usize / 10 * 2)).min(audio.len());
        send(stream, &audio[sent..]);
        stop(stream);
        assert_eq!(&finals(&rest(stream).await), said, "{rate} Hz");
    }
    drop(streams);
    all_free(&engine).await;
}

/// Speech and files of two models on one worker: all are heard whole, and say what they say alone.
#[tokio::test]
async fn two_models_with_speech_and_files_share_one_worker() {
    let models = ["one", "two"].map(Fake::named);
    let all = models.map(|model| model as Arc<dyn StepModel>).into();
    let engine = Engine::start(all, batching(4, 1)).unwrap();
    let audio = speech(8, 4.0);
    let expected = alone(&engine, &audio).await;
    let mut streams = Vec::new();
    for (id, class) in [
        ("one", Class::Live),
        ("two", Class::File),
        ("one", Class::File),
        ("two", Class::Live),
    ] {
        let model = Some(id.to_owned());
        let stream = engine
            .open(&StreamRequest {
                model,
                class,
                ..request()
            })
            .unwrap();
        send(&stream, &audio);
        stop(&stream);
        streams.push(stream);
    }
    for stream in &streams {
        assert_eq!(finals(&rest(stream).await), expected);
    }
    drop(streams);
    all_free(&engine).await;
}

/// Two hundred clients speak and are gone in the middle of a word; who stays hears nothing of it.
#[test]
fn two_hundred_clients_that_vanish_in_mid_word_leave_nothing_behind() {
    let engine = start(&Fake::new(), options(2));
    let audio = speech(3, 3.0);
    block_on(async {
        let expected = alone(&engine, &audio).await;
        let stays = engine.open(&request()).unwrap();
        let (mut left, mut open) = (200_usize, Vec::new());
        while left > 0 {
            match engine.open(&request()) {
                Ok(stream) => {
                    // Each ends elsewhere, inside a burst or a sample.
                    send(&stream, &audio[..20_001 + 97 * left]);
                    open.push(stream);
                    left -= 1;
                }
                Err(OpenError::Refused(_)) => {
                    open.clear();
                    tokio::task::yield_now().await;
                }
                Err(other) => panic!("{other}"),
            }
        }
        drop(open);
        send(&stays, &audio);
        stop(&stays);
        assert_eq!(finals(&rest(&stays).await), expected);
        drop(stays);
        all_free(&engine).await;
        assert_eq!(engine.counters().streams_abandoned.load(Relaxed), 200);
        assert_eq!(alone(&engine, &audio).await, expected);
    });
}

/// A stream in a simulated queue: its model, and when its next segment is due, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Simulated {
    model: usize,
    class: Class,
    segment: u64,
    due: u64,
}

/// Rows of the simulated worker's batches.
const ROWS: usize = 8;

/// What a worker does in so many milliseconds of its own clock, a row costing `row` of them: for each live segment how late it was
/// (negative: in time), and the rows of files.
fn simulate(speakers: usize, files: usize, row: u64, end: u64) -> (Vec<i64>, usize) {
    const PATIENCE: u64 = 10_000;
    const TURN: u64 = 20;
    let origin = Instant::now();
    let at = |ms: u64| origin + Duration::from_millis(ms);
    let ms = |instant: Instant| instant.duration_since(origin).as_millis() as u64;
    // Segments of 640 ms, complete at times that differ from speaker to speaker.
    let mut coming: Vec<Simulated> = (0..speakers)
        .map(|index| Simulated {
            model: index % 2,
            class: Class::Live,
            segment: 640,
            due: 1_280 + (index as u64 * 37) % 640,
        })
        .collect();
    let mut queue = ReadyQueue::default();
    let push = |queue: &mut ReadyQueue<Simulated>, stream: Simulated| {
        queue.push(Ready {
            wanted: at(stream.due),
            deadline: at(stream.due),
            work: Work::Step,
            model: stream.model,
            class: stream.class,
            item: stream,
        });
    };
    for index in 0..files {
        let file = Simulated {
            model: index % 2,
            class: Class::File,
            segment: 640,
            due: PATIENCE,
        };
        push(&mut queue, file);
    }
    let (mut now, mut lateness, mut of_files) = (0, Vec::new(), 0);
    while now < end {
        // A segment is there one segment before it is due.
        let (ready, later): (Vec<_>, Vec<_>) = coming
            .into_iter()
            .partition(|stream| stream.due - stream.segment <= now);
        coming = later;
        ready.into_iter().for_each(|stream| push(&mut queue, stream));
        let batch = queue.pop_batch(true, |_| BatchLimits {
            rows: ROWS,
            file_rows: (TURN / row) as usize,
        });
        now += (batch.len() as u64 * row).max(1);
        for Ready { deadline, item, .. } in batch {
            match item.class {
                Class::Live => {
                    lateness.push(now as i64 - ms(deadline) as i64);
                    coming.push(Simulated {
                        due: item.due + item.segment,
                        ..item
                    });
                }
                Class::File => {
                    of_files += 1;
                    let due = now + PATIENCE;
                    push(&mut queue, Simulated { due, ..item });
                }
            }
        }
    }
    lateness.sort_unstable();
    (lateness, of_files)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Files take what speech leaves: no segment of speech is late for them, and at the 99th percentile it comes later than without files by
    /// three batches at most: the one that has begun, one of the other model and its own, all of which files may fill up.
    #[test]
    fn speech_keeps_its_99th_percentile_while_files_are_posted(
        speakers in 1_usize..80, files in 1_usize..17, row in 2_u64..6,
    ) {
        let (quiet, _) = simulate(speakers, 0, row, 60_000);
        let (busy, of_files) = simulate(speakers, files, row, 60_000);
        let p99 = |lateness: &[i64]| lateness[lateness.len() * 99 / 100];
        // Admission keeps speech below seven tenths of the worker.
        prop_assume!(speakers as u64 * row * 10 <= 640 * 7);
        prop_assert!(busy.last().unwrap() <= &0, "{:?}", busy.last());
        prop_assert!(p99(&busy) <= p99(&quiet) + 3 * (ROWS as u64 * row) as i64, "{} {}", p99(&busy), p99(&quiet));
        // And all that is left is theirs.
        let left = 60_000 - speakers as u64 * row * 60_000 / 640;
        prop_assert!(of_files as u64 * row * 10 > left * 5, "{of_files} rows in {left} ms");
    }

    /// Models of any segments and batch sizes: no stream runs ahead of another by more than two of the longest segments, whosever model it is.
    #[test]
    fn no_model_starves_another(
        streams in prop::collection::vec((0_usize..3, 0_u64..1_000), 2..30),
        segments in prop::array::uniform3(prop::sample::select(vec![80_u64, 320, 640, 1_280])),
        rows in prop::array::uniform3(1_usize..9),
    ) {
        let origin = Instant::now();
        let mut queue = ReadyQueue::default();
        let push = |queue: &mut ReadyQueue<Simulated>, item: Simulated| queue.push(Ready {
            wanted: origin,
            deadline: origin + Duration::from_millis(item.due),
            work: Work::Step,
            model: item.model,
            class: item.class,
            item,
        });
        for (model, due) in &streams {
            let (model, segment, due) = (*model, segments[*model], *due);
            push(&mut queue, Simulated { model, class: Class::Live, segment, due });
        }
        let longest = *segments.iter().max().unwrap();
        let mut furthest = 0;
        for _ in 0..600 {
            let batch = queue.pop_batch(true, |model| BatchLimits {
                rows: rows[model],
                file_rows: 1,
            });
            let first = batch[0].item.due;
            prop_assert!(furthest <= first + 1_000 + 2 * longest, "{furthest} while {first} waited");
            for ready in batch {
                furthest = furthest.max(ready.item.due);
                let due = ready.item.due + ready.item.segment;
                push(&mut queue, Simulated { due, ..ready.item });
            }
        }
    }
}
