//! What is done to the servers, and when: read from the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Which server is meant. A role is looked up at the moment of the event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    Leader,
    /// The first one that follows, in order of ids.
    Follower,
    /// By its id: 1 and up.
    Server(usize),
    /// All that this verb can be done to; only for `restart` and `resume`.
    AllDown,
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Who, String> {
        match (text, text.parse::<usize>()) {
            ("leader", _) => Ok(Who::Leader),
            ("follower", _) => Ok(Who::Follower),
            (_, Ok(id)) if id > 0 => Ok(Who::Server(id)),
            _ => Err(format!("{text:?} is no server: give leader, follower, or an id (1 and up)")),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Leader => f.write_str("leader"),
            Who::Follower => f.write_str("follower"),
            Who::Server(id) => write!(f, "{id}"),
            Who::AllDown => f.write_str("all"),
        }
    }
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// SIGSTOP.
    Pause,
    /// Start a killed or stopped one.
    Restart,
    /// SIGCONT.
    Resume,
}

impl Verb {
    const ALL: [Verb; 5] = [Verb::Kill, Verb::Stop, Verb::Pause, Verb::Restart, Verb::Resume];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Kill => "kill",
            Verb::Stop => "stop",
            Verb::Pause => "pause",
            Verb::Restart => "restart",
            Verb::Resume => "resume",
        }
    }

    /// Whether it takes a server away.
    pub fn takes_away(self) -> bool {
        matches!(self, Verb::Kill | Verb::Stop | Verb::Pause)
    }
}

/// One entry of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub verb: Verb,
    pub who: Who,
    /// From the end of the warm-up.
    pub at: Duration,
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let (what, at) =
            text.rsplit_once('@').ok_or_else(|| format!("{text:?} has no time, as in leader@5s"))?;
        let at = crate::cli::duration(at.trim())?;
        let words: Vec<&str> = what.split_whitespace().collect();
        let verb_of = |word: &str| Verb::ALL.into_iter().find(|v| v.name() == word);
        let (verb, who) = match words[..] {
            [word] => match verb_of(word) {
                Some(verb @ (Verb::Restart | Verb::Resume)) => (verb, Who::AllDown),
                Some(verb) => return Err(format!("{} whom? As in {} leader@5s", verb.name(), verb.name())),
                None => (Verb::Kill, word.parse()?),
            },
            [verb, who] => {
                let known = || format!("{verb:?} is none of kill, stop, pause, restart, resume");
                (verb_of(verb).ok_or_else(known)?, who.parse()?)
            }
            _ => return Err(format!("{text:?} is not [VERB] [WHO]@TIME")),
        };
        if !verb.takes_away() && matches!(who, Who::Leader | Who::Follower) {
            return Err(format!("{} takes an id, or stands alone: who is down has no role", verb.name()));
        }
        Ok(Step { verb, who, at })
    }
}

/// Steps in order of time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    pub steps: Vec<Step>,
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Schedule, String> {
        let mut steps = text.split(',').map(str::trim).map(str::parse).collect::<Result<Vec<Step>, _>>()?;
        steps.sort_by_key(|s| s.at);
        let mut taken = Vec::new();
        for step in &steps {
            let cause = match step.verb {
                Verb::Restart => &[Verb::Kill, Verb::Stop][..],
                Verb::Resume => &[Verb::Pause],
                other => {
                    taken.push(other);
                    continue;
                }
            };
            if !taken.iter().any(|v| cause.contains(v)) {
                return Err(format!("there is nothing to {} at {:?}", step.verb.name(), step.at));
            }
        }
        Ok(Schedule { steps })
    }
}

impl Schedule {
    /// Kills `who` each time that `every` has passed and starts it again `down` later, as often as that fits into
    /// `length` whole.
    ///
    /// # Errors
    /// It would be killed again before it is started.
    pub fn repeated(who: Who, every: Duration, down: Duration, length: Duration) -> Result<Schedule, String> {
        if every <= down {
            return Err(format!("killed every {every:?}, a server cannot be down for {down:?}"));
        }
        let times = (1..).map(|n| every * n).take_while(|at| *at + down < length);
        let pair = |at| {
            let kill = Step { verb: Verb::Kill, who, at };
            [kill, Step { verb: Verb::Restart, who: Who::AllDown, at: at + down }]
        };
        Ok(Schedule { steps: times.flat_map(pair).collect() })
    }

    /// The time of the last step.
    pub fn last(&self) -> Option<Duration> {
        self.steps.last().map(|s| s.at)
    }

    /// The largest id that is named.
    pub fn largest_id(&self) -> usize {
        let id = |s: &Step| if let Who::Server(id) = s.who { id } else { 0 };
        self.steps.iter().map(id).max().unwrap_or(0)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, s) in self.steps.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{} {}@{}s", s.verb.name(), s.who, s.at.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_verb_is_kill_unless_it_is_given_and_steps_are_in_order_of_time() {
        let s: Schedule =
            "kill follower@12s, leader@5s,restart@8s,pause 2@13s,resume@14500ms".parse().unwrap();
        let step = |verb, who, at| Step { verb, who, at: ms(at) };
        assert_eq!(
            s.steps,
            [
                step(Verb::Kill, Who::Leader, 5_000),
                step(Verb::Restart, Who::AllDown, 8_000),
                step(Verb::Kill, Who::Follower, 12_000),
                step(Verb::Pause, Who::Server(2), 13_000),
                step(Verb::Resume, Who::AllDown, 14_500),
            ]
        );
        assert_eq!(s.largest_id(), 2);
        let shown = s.to_string().replace("restart all", "restart").replace("resume all", "resume");
        assert_eq!(shown.parse::<Schedule>(), Ok(s));
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (text, reason) in [
            ("leader", "no time"),
            ("leader@5", "us, ms, s, m or h"),
            ("stop@5s", "stop whom"),
            ("king@5s", "is no server"),
            ("shoot leader@5s", "none of kill"),
            ("kill 0@5s", "is no server"),
            ("restart@5s", "nothing to restart"),
            ("pause 1@1s,restart@5s", "nothing to restart"),
            ("kill 1@1s,resume@5s", "nothing to resume"),
            ("kill 1@1s,restart leader@5s", "has no role"),
            ("kill the leader@5s", "is not [VERB] [WHO]@TIME"),
            ("", "no time"),
        ] {
            let refused = text.parse::<Schedule>().unwrap_err();
            assert!(refused.contains(reason), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_repeated_kill_fits_whole() {
        let s = Schedule::repeated(Who::Leader, ms(5_000), ms(2_000), ms(17_000)).unwrap();
        assert_eq!(s.to_string(), "kill leader@5s, restart all@7s, kill leader@10s, restart all@12s");
        assert!(Schedule::repeated(Who::Leader, ms(5_000), ms(5_000), ms(17_000)).is_err());
        assert_eq!(Schedule::repeated(Who::Leader, ms(5_000), ms(1), ms(4_000)).unwrap().last(), None);
    }
}
