//! End to end: real kubectl, real containerd, the built programs.

mod bad_input;
mod bad_join;
mod kubectl;
mod offline;
mod runtime;
mod store;
mod supervision;
mod testbed;
mod workload;

use std::process::ExitCode;

use e2e::{Group, Suite};
use harness::Cluster;

fn main() -> ExitCode {
    e2e::run(&Suite {
        lone: &[
            ("testbed::ends_and_leaves_nothing_behind", testbed::leaves_nothing),
            ("manifest::unknown_key_is_named_and_refused", supervision::unknown_manifest_key),
        ],
        groups: &[
            Group {
                name: "workload",
                start: Cluster::start,
                cases: &[
                    ("node_registers_as_a_kubelet_does", workload::node),
                    ("recorded_pod_serves_with_its_env_and_files", workload::web),
                    ("recorded_pod_has_the_status_a_kubelet_writes", workload::status_shape),
                    ("changed_config_map_and_secret_reach_the_mounted_files", workload::edited_objects),
                    ("recorded_crash_looping_pod_backs_off_and_counts", workload::crash_loop),
                    ("missing_image_is_reported_and_tried_again", workload::missing_image),
                    ("volumes_of_every_supported_kind_are_mounted", workload::volumes),
                    ("environment_comes_from_all_its_sources", workload::environment),
                    ("failing_liveness_probe_restarts_the_container", workload::liveness),
                    ("readiness_follows_its_probes", workload::readiness),
                    ("restart_policy_decides_how_a_pod_ends", workload::restart_policies),
                    ("pod_without_a_node_is_bound_to_the_only_one", workload::binding),
                    ("deleted_pod_gets_its_grace_and_is_removed", workload::graceful_delete),
                    ("deaf_pod_is_killed_when_its_grace_is_over", workload::deaf_delete),
                    ("get_shows_tables_selectors_and_errors", kubectl::get),
                    ("get_watch_follows_a_pod", kubectl::watch),
                    ("apply_says_created_unchanged_configured", kubectl::apply),
                    ("describe_tells_conditions_and_events", kubectl::describe),
                    ("edit_patch_and_label_change_objects", kubectl::edit_patch_label),
                    ("wait_and_delete_end_when_it_is_done", kubectl::wait_delete),
                ],
            },
            Group {
                name: "supervision",
                start: Cluster::start,
                cases: &[
                    ("each_component_has_its_own_user", supervision::users),
                    ("restart_replaces_one_process_and_no_pod_notices", supervision::restart),
                    ("logs_show_what_a_component_wrote", supervision::logs),
                    ("unknown_component_is_named", supervision::unknown_component),
                ],
            },
            Group {
                name: "offline",
                start: Cluster::start,
                cases: &[
                    ("removed_containers_come_back_without_the_cloud", offline::removed_containers),
                    ("changes_made_while_the_edge_was_away_arrive", offline::edge_away),
                    ("changes_made_after_a_cloud_restart_arrive", offline::cloud_restart),
                ],
            },
            Group {
                name: "bad_pods",
                start: Cluster::start,
                cases: &[
                    ("impossible_image_name_is_an_event", bad_input::image_name),
                    ("unknown_volume_type_is_an_event", bad_input::volume_type),
                    ("missing_config_map_is_an_event_until_it_comes", bad_input::missing_config_map),
                    ("message_that_is_not_json_ends_only_its_session", bad_input::not_json),
                    ("object_the_api_cannot_read_is_refused", bad_input::bad_objects),
                ],
            },
            Group {
                name: "bad_join",
                start: bad_join::prepare,
                cases: &[
                    ("wrong_token_is_named_and_mended_by_the_right_one", bad_join::wrong_token),
                    ("hub_of_another_ca_is_refused_until_the_right_one_is_back", bad_join::other_ca),
                ],
            },
            Group {
                name: "bad_ca_hash",
                start: bad_join::prepare,
                cases: &[("token_of_another_ca_is_named_and_mended_by_the_right_one", bad_join::wrong_hash)],
            },
            Group {
                name: "full_disk",
                start: store::start,
                cases: &[("full_store_is_reported_and_recovers", store::full_disk)],
            },
            Group {
                name: "runtime",
                start: runtime::start_without_runtime,
                cases: &[
                    ("absent_runtime_is_reported_until_it_comes", runtime::absent),
                    ("dead_runtime_is_reported_and_pods_keep_running", runtime::dies),
                ],
            },
        ],
    })
}
