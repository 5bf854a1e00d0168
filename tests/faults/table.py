"""What can go wrong, and how it ends: `python tests/faults/table.py` runs the tests of each fault and prints a table.

Ends with 1 if a test fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TESTS = Path(__file__).parents[1]
FAULTS = {
    "unfinished study copied, renamed, its photos moved": (
        "faults/test_interruption.py::test_killed_copied_damaged_and_stopped_search_ends_like_an_uninterrupted_one",
    ),
    "other photos of the same names": ("data/test_photos.py::test_photos_are_told_by_their_contents",),
    "study resumed with other settings": (
        "search/test_study.py::test_different_configuration_under_the_same_name_is_refused",
    ),
    "strong noise that a denoiser leaves": ("inference/test_files.py::test_strong_noise_that_is_left_is_told",),
    "truncated and foreign images, animations, bands": (
        "inference/test_files.py::test_files_that_are_not_images_are_refused",
    ),
    "EXIF and GPS entries, in and out of every format": (
        "inference/test_files.py::test_orientation_is_applied_and_other_metadata_kept",
        "inference/test_files.py::test_sixteen_bits_keep_their_metadata",
    ),
    "thumbnail of the noisy picture": ("inference/test_files.py::test_no_thumbnail_of_the_noisy_picture_is_kept",),
    "alpha, depth and CMYK that a format cannot hold": (
        "inference/test_files.py::test_transparency_that_jpeg_cannot_hold_is_refused",
        "inference/test_files.py::test_depth_that_a_format_cannot_hold_is_said",
        "inference/test_files.py::test_sixteen_bits_of_cmyk_stay_sixteen",
    ),
    "weights that are NaN, of other shapes, damaged or missing": (
        "train/test_checkpoint.py::test_folder_without_a_usable_denoiser_is_refused",
    ),
    "evaluation photos of equal and of long names": (
        "evaluation/test_evaluate.py::test_the_command_compares_denoisers_and_filters",
    ),
    "links to a parent folder, names that are not UTF-8": (
        "study/test_storage.py::test_links_and_odd_names_are_listed_once_or_left_out",
        "data/test_photos.py::test_copies_are_used_once",
    ),
    "earlier results inside the input": ("data/test_photos.py::test_other_formats_and_results_are_no_input",),
    "photos that cannot be read, or vanish": (
        "data/test_photos.py::test_unusable_photos_are_skipped_counted_and_named",
        "data/test_photos.py::test_odd_files_do_not_end_a_run",
        "data/test_stream.py::test_a_photo_that_breaks_on_the_way_is_named",
    ),
    "trial with an error of its own": (
        "train/test_driver.py::test_a_workers_own_error_is_told_and_not_retried",
        "train/test_driver.py::test_run_that_diverges_fails_with_the_loss_and_is_not_retried",
        "bad_input/test_command_line.py::test_every_trial_diverges",
    ),
    "out of memory": ("train/test_driver.py::test_run_out_of_memory_starts_again_with_half_the_batch_if_asked",),
    "too little room on the disk": ("search/test_prepare.py::test_a_study_that_the_disk_cannot_hold_is_refused",),
    "disk becomes full": ("faults/test_disk.py::test_full_disk_stops_a_search_which_resumes",),
    "checkpoints of ended trials": ("search/test_study.py::test_ended_trials_keep_their_denoisers_only",),
    "files of a study that are empty or garbled": (
        "config/test_properties.py::test_a_garbled_file_is_read_or_refused",
        "study/test_ledger.py::test_torn_last_line_is_dropped_and_repaired_with_the_next_epoch",
        "study/test_trials.py::test_torn_journal_is_repaired",
        "study/test_lock.py::test_a_damaged_lock_is_nobodys",
    ),
    "damaged checkpoint": (
        "train/test_checkpoint.py::test_damaged_newest_checkpoint_is_passed_over",
        "train/test_checkpoint.py::test_interrupted_save_leaves_the_checkpoint_before",
    ),
    "write that fails half-way": ("study/test_storage.py::test_a_failed_write_leaves_the_old_content",),
    "user without a name or a home": (
        "faults/test_surroundings.py",
        "study/test_lock.py::test_a_user_without_a_name_holds_a_lock",
    ),
    "temporary folder of a long path": (
        "bad_input/test_command_line.py::test_temporary_folder_too_long_for_rays_sockets",
    ),
    "absurd and empty options": (
        "bad_input/test_command_line.py::test_invalid_options",
        "bad_input/test_command_line.py::test_invalid_values",
        "config/test_properties.py",
    ),
    "output that cannot be written": (
        "study/test_storage.py::test_a_folder_that_cannot_be_written_to_is_refused",
        "study/test_lock.py::test_unwritable_storage_raises",
        "inference/test_files.py::test_impossible_requests_are_refused",
    ),
    "two searches in one folder": ("study/test_lock.py",),
    "two downloads at once, broken and wrong ones": ("data/test_download.py",),
    "Ctrl-C and SIGTERM": (
        "test_cli.py::test_a_signal_during_imports_ends_the_search_cleanly",
        "test_dashboard.py::test_trials_and_scalars_are_served",
    ),
    "cluster that cannot be reached, or is too small": (
        "bad_input/test_command_line.py::test_unreachable_cluster",
        "bad_input/test_command_line.py::test_cluster_too_small_for_one_trial",
        "search/test_preflight.py",
    ),
    "host that dies": ("cluster/test_hosts.py",),
    "cluster of another user": ("train/test_cluster.py::test_a_cluster_that_another_user_names_is_not_joined",),
    "stranger without the token": ("cluster/test_ports.py", "cluster/test_submit.py"),
    "other sites' requests to the dashboard, DNS rebinding": ("test_dashboard.py",),
    "keys and passwords in addresses": (
        "study/test_storage.py::test_keys_in_an_address_are_refused_and_not_shown",
        "study/test_trials.py::test_passwords_of_databases_are_not_shown",
        "config/test_properties.py::test_no_password_of_a_url_is_shown",
    ),
    "names and texts in the report's page": ("report/test_page.py::test_texts_are_escaped",),
}
"""The tests of each fault."""


def main() -> None:
    """The command."""
    tests = dict.fromkeys(test for tests in FAULTS.values() for test in tests)
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", f"--junitxml={results}", *tests]
        subprocess.run(command, cwd=TESTS, check=False, stdout=sys.stderr)
        outcomes = {}
        for case in ElementTree.parse(results).iter("testcase"):
            file = case.attrib["classname"].replace(".", "/").removeprefix("tests/") + ".py"
            worst = next((tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None), "passed")
            outcomes[f"{file}::{case.attrib['name']}"] = worst
    print("| fault | tests | outcome |\n|---|---|---|")
    failed = False
    for fault, tests_of in FAULTS.items():
        found = [outcomes[name] for name in outcomes if name.partition("[")[0].startswith(tests_of)]
        counts = ", ".join(f"{found.count(outcome)} {outcome}" for outcome in dict.fromkeys(found))
        failed |= not found or "failure" in found or "error" in found
        print(f"| {fault} | {len(found)} | {counts or 'not found'} |")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
