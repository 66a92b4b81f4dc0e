//! `logs`: order, form, and what happens while somebody follows.

use std::time::Duration;

use provisioner::interrupt::Interrupt;
use provisioner_core::engine::{Engine, Power};
use provisioner_core::lines::Channel;
use provisioner_core::name::Member;
use provisioner_core::testing::memory::EPOCH;
use provisioner_core::wait;

use crate::world::{Ran, World, snapshot};

impl World {
    fn print(&self, member: &str, line: &str) {
        self.engine.print(&Member::named(member), Channel::Stdout, line);
    }

    async fn power(&self, member: &str, power: Power) {
        self.engine.set(&Member::named(member), power).await.unwrap();
    }
}

/// Longer than a member that does not run stays unlooked at.
async fn a_moment() {
    wait::pause(Duration::from_secs(1)).await;
}

/// Runs `command` while `meanwhile` goes on, and interrupts it at its end.
async fn while_following(world: &mut World, command: &str, meanwhile: impl AsyncFnOnce(&World)) -> Ran {
    let (asks, interrupt) = Interrupt::by_hand();
    world.interrupt = interrupt;
    let world = &*world;
    let script = async {
        a_moment().await;
        meanwhile(world).await;
        a_moment().await;
        asks.send_replace(1);
    };
    let (ran, ()) = tokio::join!(world.run(command), script);
    ran
}

#[tokio::test(start_paused = true)]
async fn members_are_shown_in_the_order_of_time() {
    let world = World::up().await;
    world.print("redis-1", "first");
    world.print("nginx-1", "second");
    world.engine.print(&Member::named("redis-1"), Channel::Stderr, "third");
    snapshot!("logs_in_order", world.shown("logs -e dev nginx redis").await);
    snapshot!("logs_tail", world.shown("logs -e dev nginx redis --tail 1").await);
    snapshot!("logs_without_prefix", world.shown("logs -e dev nginx redis --tail 1 --no-prefix").await);
    snapshot!("logs_yaml", world.shown("logs -e dev redis-1 --tail 1 -o yaml").await);
    let twice = world.ok("logs -e dev redis redis-1 --tail 1").await;
    assert_eq!(twice.stdout, "third\n");
}

#[tokio::test(start_paused = true)]
async fn since_counts_from_now() {
    let world = World::up().await;
    world.print("redis-1", "late");
    let printed = world.json("logs -e dev redis-1 --tail 1").await["at"].as_str().unwrap().to_owned();
    let seconds: u64 = printed[17..19].parse().unwrap();
    world.engine.tamper(|observed| observed.at = EPOCH + seconds + 60);
    assert_eq!(world.ok("logs -e dev redis-1 --since 1m").await.stdout, "late\n");
    assert_eq!(world.ok("logs -e dev redis-1 --since 59s").await.stdout, "");
    assert_eq!(world.run("logs -e dev redis-1 --since 5").await.code, 64);
}

#[tokio::test(start_paused = true)]
async fn following_shows_lines_as_they_come_and_ends_when_told() {
    let mut world = World::up().await;
    let ran = while_following(&mut world, "logs -e dev -f redis nginx --tail 0", async |world| {
        for nth in 1..=2 {
            world.print("redis-1", &format!("redis {nth}"));
            a_moment().await;
            world.print("nginx-1", &format!("nginx {nth}"));
            a_moment().await;
        }
    });
    snapshot!("logs_follow", ran.await.shown());
}

#[tokio::test(start_paused = true)]
async fn following_goes_on_after_a_restart_without_a_line_twice() {
    let mut world = World::up().await;
    let ran = while_following(&mut world, "logs -e dev -f redis nginx --tail 1", async |world| {
        world.print("redis-1", "last words");
        world.power("redis-1", Power::Stopped).await;
        a_moment().await;
        world.print("nginx-1", "I go on");
        a_moment().await;
        world.power("redis-1", Power::Running).await;
        world.print("redis-1", "before anybody looked");
        a_moment().await;
        world.print("redis-1", "back again");
        a_moment().await;
        // Another one in its place, so soon that nobody saw it gone.
        world.engine.tamper(|observed| {
            observed.workloads.get_mut(&Member::named("redis-1")).unwrap().instance = "another".to_owned();
        });
        world.print("redis-1", "another");
        a_moment().await;
    });
    snapshot!("logs_follow_restart", ran.await.shown());
}

#[tokio::test(start_paused = true)]
async fn following_waits_for_a_member_that_is_not_there_yet() {
    let mut world = World::new();
    let ran = while_following(&mut world, "logs -e dev -f redis-1", async |world| {
        World::beside(world).ok("up redis -e dev --no-verify").await;
        a_moment().await;
    });
    snapshot!("logs_follow_absent", ran.await.shown());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_prints_without_end_keeps_nobody_waiting() {
    const LINES: usize = 50_000;
    let mut world = World::up().await;
    for _ in 0..LINES {
        world.print("redis-1", "again");
    }
    world.print("nginx-1", "here I am");
    let (asks, interrupt) = Interrupt::by_hand();
    world.interrupt = interrupt;
    let interrupts = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        asks.send_replace(1);
    };
    let (ran, ()) = tokio::join!(world.run("logs -e dev -f redis nginx"), interrupts);
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    let shown = ran.stdout.lines().count();
    assert!(shown > 100 && shown < LINES, "{shown} lines were shown");
    assert!(ran.stdout.contains("nginx-1 | here I am\n"), "the other member had its turn");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let mut world = World::up().await;
    world.stdout_takes = Some(2);
    for command in ["logs -e dev -f", "logs -e dev"] {
        let ran = world.run(command).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command}");
        assert_eq!(ran.stdout.lines().count(), 2, "{command}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_keeps_its_color() {
    let mut world = World::up().await;
    let plain = world.ok("logs -e dev redis nginx").await.stdout;
    assert!(!plain.contains('\x1b'));
    let piped = world.ok("logs -e dev redis nginx --color always").await.stdout;
    world.terminals.stdout = true;
    let colored = world.ok("logs -e dev redis nginx").await.stdout;
    assert_eq!(colored, piped);
    assert_eq!(world.ok("logs -e dev redis nginx --color never").await.stdout, plain);
    let of_redis = |text: &str| {
        let line = text.lines().find(|line| line.contains("redis-1")).unwrap().to_owned();
        line.split('m').next().unwrap().to_owned()
    };
    let among_all = world.ok("logs -e dev").await.stdout;
    assert_eq!(of_redis(&colored), of_redis(&among_all));
    assert_ne!(of_redis(&colored), colored.lines().find(|line| line.contains("nginx-1")).unwrap()[..5]);
    world.environment.variables.insert("NO_COLOR".to_owned(), "1".to_owned());
    assert_eq!(world.ok("logs -e dev redis nginx").await.stdout, plain);
}
