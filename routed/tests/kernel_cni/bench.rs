//! ADD and DEL through a real exec beside the reference plugins (`ptp` with `host-local`) in the same run. The figures are printed;
//! what is asserted is only that all calls succeed, because a busy machine proves nothing about time.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::exec::{Call, Sandbox};
use crate::verbs::{Bed, until_gone};
use tokio::task::spawn_blocking;

const ROUNDS: usize = 30;

#[derive(Default)]
struct Times {
    add: Vec<Duration>,
    del: Vec<Duration>,
    /// From the answer of a DEL until link and address are gone.
    behind: Vec<Duration>,
}

impl Times {
    fn print(&mut self, name: &str) {
        self.add.sort();
        self.del.sort();
        self.behind.sort();
        let at = |times: &[Duration], part: usize| times[(times.len() - 1) * part / 100];
        println!(
            "{name:<18} ADD p50 {:>8.2?} p90 {:>8.2?}   DEL p50 {:>8.2?} p90 {:>8.2?}",
            at(&self.add, 50),
            at(&self.add, 90),
            at(&self.del, 50),
            at(&self.del, 90)
        );
        if !self.behind.is_empty() {
            println!(
                "{name:<18} behind the answer of DEL p50 {:>8.2?}",
                at(&self.behind, 50)
            );
        }
    }
}

async fn measure(plugin: &Path, conf: &str, sandbox: &Sandbox, times: &mut Times) {
    for verb in ["ADD", "DEL"] {
        let (plugin, conf, netns, name) = (
            plugin.to_owned(),
            conf.to_owned(),
            sandbox.path(),
            sandbox.name.clone(),
        );
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name}");
        let call = move || {
            Call {
                plugin: &plugin,
                verb,
                id: &format!("id-{name}"),
                netns,
                args,
                conf,
            }
            .exec()
        };
        let (code, answer, took) = spawn_blocking(call).await.unwrap();
        assert_eq!(code, 0, "{verb} {answer}");
        if verb == "ADD" {
            times.add.push(took);
        } else {
            times.del.push(took);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn add_and_del_beside_ptp_and_host_local() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    let ptp = Path::new("/usr/lib/cni/ptp");
    if !ptp.exists() {
        println!("skipped the comparison: containernetworking-plugins is not installed");
    }
    let state = bed.directory.path().join("host-local");
    let reference = format!(
        r#"{{"cniVersion":"1.0.0","name":"ptp","type":"ptp","ipam":{{"type":"host-local","subnet":"10.66.0.0/16","dataDir":"{}"}}}}"#,
        state.display()
    );
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for round in 0..ROUNDS {
        let name = format!("b{round}");
        bed.node.add_pod(&name).await;
        let sandbox = Sandbox::new(&name);
        measure(&bed.plugin, &bed.node.conf(), &sandbox, &mut ours).await;
        // What a DEL leaves behind its answer is nobody else's to wait for.
        let before = Instant::now();
        until_gone(&bed.node.pool, 0).await;
        ours.behind.push(before.elapsed());
        if ptp.exists() {
            measure(ptp, &reference, &sandbox, &mut theirs).await;
        }
    }
    let mut starts = Vec::new();
    for _ in 0..ROUNDS {
        let (plugin, conf) = (bed.plugin.clone(), bed.node.conf());
        let call = move || {
            Call {
                plugin: &plugin,
                verb: "VERSION",
                id: "",
                netns: String::new(),
                args: String::new(),
                conf,
            }
            .exec()
        };
        starts.push(spawn_blocking(call).await.unwrap().2);
    }
    starts.sort();
    println!("VERSION p50 {:.2?}", starts[starts.len() / 2]);
    ours.print("margay");
    if ptp.exists() {
        theirs.print("ptp + host-local");
    }
    for (step, histogram) in bed.node.cni.metrics.snapshot().steps {
        let count = u32::try_from(histogram.count()).unwrap();
        println!("  {step:<10} mean {:>8.2?}", histogram.sum / count);
    }
    bed.node.stop().await;
}
